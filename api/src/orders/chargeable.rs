//! Before an order is accepted, rejects amounts that the payment provider can never charge. The domain has the rules.

use crate::problem::{FieldError, Problem};
use waybill_domain::{
    Currency,
    money::Amount,
    order::{NewOrder, parse_sale_currency},
    provider_currency::{NotChargeable, ProviderCurrency, amount_increment},
};

/// Returns the currency of that code, if orders can be paid in it.
pub(super) fn chargeable_currency(code: &str) -> Result<Currency, String> {
    let currency = parse_sale_currency(code).map_err(|error| error.to_string())?;
    ProviderCurrency::for_currency(currency).map_err(|error| error.to_string())?;
    Ok(currency)
}

/// Validates the order's amounts. An order with a total of zero is not charged.
pub(super) fn validate_chargeable(order: &NewOrder, total: Amount) -> Vec<FieldError> {
    if total.is_zero() {
        return Vec::new();
    }
    match ProviderCurrency::for_currency(order.currency).and_then(|units| units.check_charge(total)) {
        Ok(()) => Vec::new(),
        Err(reason @ NotChargeable::NotAMultiple(unit)) => non_multiple_fields(order, unit)
            .into_iter()
            .map(|pointer| FieldError { pointer, detail: reason.to_string() })
            .collect(),
        Err(reason @ NotChargeable::UnsupportedCurrency) => {
            vec![FieldError { pointer: "/currency".into(), detail: reason.to_string() }]
        }
        Err(reason @ (NotChargeable::TooSmall(_) | NotChargeable::TooLarge(_))) => {
            vec![FieldError { pointer: "/lines".into(), detail: format!("the order's total {reason}") }]
        }
    }
}

/// Returns the amounts that are not multiples of `unit` if the total is not: at least one, as the total is their sum.
fn non_multiple_fields(order: &NewOrder, unit: i64) -> Vec<String> {
    let lines = order.lines.iter().enumerate().map(|(number, line)| {
        (format!("/lines/{number}/unit_price"), line.unit_price.minor() * i64::from(line.quantity))
    });
    let charges = [("/discount", order.discount), ("/shipping_fee", order.shipping_fee), ("/tax", order.tax)];
    let charges = charges.map(|(pointer, amount)| (pointer.to_owned(), amount.minor()));
    lines.chain(charges).filter(|(_, minor)| minor % unit != 0).map(|(pointer, _)| pointer).collect()
}

/// Checks that the provider can refund the amount.
pub(super) fn validate_refund_amount(currency: Currency, amount: Amount) -> Result<(), Problem> {
    let unit = amount_increment(currency);
    if amount.minor() % unit == 0 {
        return Ok(());
    }
    let detail = NotChargeable::NotAMultiple(unit).to_string();
    Err(Problem::invalid(vec![FieldError { pointer: "/amount".into(), detail }]))
}

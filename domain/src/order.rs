//! An order as a customer places it.

use crate::{
    ids::{CustomerId, Sku},
    money::{Amount, AmountOutOfRange},
    status::{UnknownVariant, string_enum},
};
use iso_currency::Currency;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The maximum number of lines of an order: with it, a body stays within 64 KiB and a plan within one transaction.
pub const LINES_MAX: usize = 200;
/// The maximum quantity of a line.
pub const QUANTITY_MAX: u32 = 10_000;

string_enum!(
    /// The order's policy if some items are not in stock.
    ShortagePolicy "shortage policy" {
        /// The order is rejected.
        Reject = "reject",
        /// The available units ship; the remaining units are cancelled.
        ShipAvailable = "ship_available",
        /// The customer decides, until a deadline.
        AskCustomer = "ask_customer",
    }
);

/// One line of an order. Lines are numbered from 0, in the given sequence.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderLine {
    /// The SKU.
    pub sku: Sku,
    /// The number of units: 1 to [`QUANTITY_MAX`].
    pub quantity: u32,
    /// The price of one unit.
    pub unit_price: Amount,
}

/// The shipping address. Personal data: it stays in Postgres, and never enters a workflow's history or a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The recipient.
    pub name: String,
    /// Street and number.
    pub line1: String,
    /// Further details for the carrier.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    /// City.
    pub city: String,
    /// Postal code; absent in countries without postal codes ([`crate::country::has_postal_codes`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    /// State, province or region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// ISO 3166-1 alpha-2, upper case.
    pub country: String,
    /// The number for the carrier's calls and messages about the delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// The address for the carrier's e-mails about the delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub email: Option<String>,
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Address({}, redacted)", self.country)
    }
}

/// A valid order that has not been accepted yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewOrder {
    /// The customer who orders.
    pub customer_id: CustomerId,
    /// The currency of every amount of the order.
    pub currency: Currency,
    /// The merchant's own reference, if there is one.
    pub reference: Option<String>,
    /// At least one, at most [`LINES_MAX`].
    pub lines: Vec<OrderLine>,
    /// Discount on the lines' prices, for the whole order; at most their sum.
    pub discount: Amount,
    /// Shipping fee for the whole order.
    pub shipping_fee: Amount,
    /// Tax on the whole order, on top of the lines' prices.
    pub tax: Amount,
    /// The provider's id of the payment method, such as `pm_card_visa`.
    pub payment_method: String,
    /// The shipping address.
    pub shipping_address: Address,
    /// The policy if some items are not in stock.
    pub shortage_policy: ShortagePolicy,
    /// The merchant's own notes.
    pub metadata: BTreeMap<String, String>,
}

impl NewOrder {
    /// The sum of the lines' prices.
    ///
    /// # Errors
    /// When above [`crate::money::AMOUNT_MAX`].
    pub fn subtotal(&self) -> Result<Amount, AmountOutOfRange> {
        self.lines.iter().try_fold(Amount::ZERO, |sum, line| sum.plus(line.unit_price.times(line.quantity)?))
    }

    /// The amount that the customer pays: lines less discount, plus shipping fee and tax.
    ///
    /// # Errors
    /// When above [`crate::money::AMOUNT_MAX`].
    pub fn total(&self) -> Result<Amount, AmountOutOfRange> {
        self.subtotal()?.minus_or_zero(self.discount).plus(self.shipping_fee)?.plus(self.tax)
    }
}

/// Parses an ISO 4217 code, also one that was withdrawn after an order with it was accepted.
///
/// # Errors
/// If no currency has the code.
pub fn parse_currency(code: &str) -> Result<Currency, UnknownVariant> {
    Currency::from_str(code).map_err(|_| unknown_currency(code))
}

/// Parses the ISO 4217 code of a currency that items can be sold in today. Rejects metals, units of account, funds
/// codes, the codes for tests and for no currency, and withdrawn currencies, such as `XAU`, `XDR`, `CLF`, `XXX`, `HRK`.
///
/// # Errors
/// If it is not the code of such a currency.
pub fn parse_sale_currency(code: &str) -> Result<Currency, UnknownVariant> {
    let is_current = |currency: &Currency| match currency {
        // ISO 4217 lists VES in addition to VED, and Venezuela uses it; the crate marks it as withdrawn.
        Currency::VES => true,
        other => other.flags().is_empty(),
    };
    parse_currency(code).ok().filter(is_current).ok_or_else(|| unknown_currency(code))
}

fn unknown_currency(code: &str) -> UnknownVariant {
    UnknownVariant {
        what: "currency",
        text: code.chars().take(8).collect(),
        choices: "the upper-case codes of ISO 4217 that items can be sold in, such as EUR, USD, JPY".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn non_sale_currency_is_rejected() {
        let not_money = [
            "XXX", "XTS", "XAU", "XAG", "XPT", "XPD", "XBA", "XBB", "XBC", "XBD", "XDR", "XSU", "XUA", "XAD",
        ];
        let funds = ["BOV", "CHE", "CHW", "CLF", "COU", "MXV", "USN", "UYI", "UYW"];
        for code in
            not_money.iter().chain(&funds).chain(&["HRK", "BGN", "SLL", "CUC", "ZWL", "eur", "ABC", ""])
        {
            assert!(parse_sale_currency(code).is_err(), "{code}");
        }
        for code in ["EUR", "USD", "JPY", "KWD", "XOF", "XAF", "XPF", "XCD", "XCG", "VES", "SLE", "ZWG"] {
            assert_eq!(parse_sale_currency(code).unwrap().code(), code);
        }
    }

    #[test]
    fn withdrawn_currency_of_an_accepted_order_stays_readable() {
        assert_eq!(parse_currency("HRK").unwrap().code(), "HRK");
    }
}

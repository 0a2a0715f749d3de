//! An order as a customer places it.

use crate::{
    ids::{CustomerId, Sku},
    money::{Amount, AmountOutOfRange},
    status::{UnknownVariant, string_enum},
};
use iso_currency::Currency;
use serde::{Deserialize, Serialize};
use std::{collections::BTreeMap, fmt, str::FromStr};

/// The most lines an order may have: with it, a body stays within 64 KiB and a plan within one transaction.
pub const LINES_MAX: usize = 200;
/// The most pieces a line may ask for.
pub const QUANTITY_MAX: u32 = 10_000;

string_enum!(
    /// What happens when some of the order is not in stock.
    ShortagePolicy "shortage policy" {
        /// The order is rejected.
        Reject = "reject",
        /// What is there ships; the rest of the lines is cancelled.
        ShipAvailable = "ship_available",
        /// The customer is asked, until a deadline.
        AskCustomer = "ask_customer",
    }
);

/// One line of an order. Lines count from 0, in the order given.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrderLine {
    /// What.
    pub sku: Sku,
    /// How many pieces: 1 to [`QUANTITY_MAX`].
    pub quantity: u32,
    /// The price of one piece.
    pub unit_price: Amount,
}

/// Where the goods go. Personal data: it stays in Postgres, and never enters a workflow's history or a log.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// Who receives it.
    pub name: String,
    /// Street and number.
    pub line1: String,
    /// What else the carrier needs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub line2: Option<String>,
    /// City.
    pub city: String,
    /// Postal code; none in countries that have no postal codes ([`crate::country::has_postal_codes`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub postal_code: Option<String>,
    /// State, province or region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// ISO 3166-1 alpha-2, upper case.
    pub country: String,
    /// Where the carrier can call or send a message about the delivery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phone: Option<String>,
    /// Where the carrier can write about the delivery.
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
    /// Who orders.
    pub customer_id: CustomerId,
    /// The currency of every amount of the order.
    pub currency: Currency,
    /// The merchant's own number for it, if there is one.
    pub reference: Option<String>,
    /// At least one, at most [`LINES_MAX`].
    pub lines: Vec<OrderLine>,
    /// Off the lines' prices, the whole order; at most what they add up to.
    pub discount: Amount,
    /// For shipping, the whole order.
    pub shipping_fee: Amount,
    /// Tax on the whole order, on top of the lines' prices.
    pub tax: Amount,
    /// The provider's name for the means of payment, such as `pm_card_visa`.
    pub payment_method: String,
    /// Where to.
    pub shipping_address: Address,
    /// What to do about missing stock.
    pub shortage_policy: ShortagePolicy,
    /// The merchant's own notes.
    pub metadata: BTreeMap<String, String>,
}

impl NewOrder {
    /// The lines' prices, added up.
    ///
    /// # Errors
    /// When above [`crate::money::AMOUNT_MAX`].
    pub fn subtotal(&self) -> Result<Amount, AmountOutOfRange> {
        self.lines.iter().try_fold(Amount::ZERO, |sum, line| sum.plus(line.unit_price.times(line.quantity)?))
    }

    /// What the customer is asked to pay: lines less discount, shipping fee and tax.
    ///
    /// # Errors
    /// When above [`crate::money::AMOUNT_MAX`].
    pub fn total(&self) -> Result<Amount, AmountOutOfRange> {
        self.subtotal()?.minus_or_zero(self.discount).plus(self.shipping_fee)?.plus(self.tax)
    }
}

/// An ISO 4217 code, also one of an order that was accepted before its currency was withdrawn.
///
/// # Errors
/// When no currency has the code.
pub fn parse_currency(code: &str) -> Result<Currency, UnknownVariant> {
    Currency::from_str(code).map_err(|_| unknown_currency(code))
}

/// The ISO 4217 code of a currency that goods can be sold in today. Not so: metals, units of account, funds codes, the
/// codes for tests and for no currency, and currencies that were withdrawn, such as `XAU`, `XDR`, `CLF`, `XXX`, `HRK`.
///
/// # Errors
/// When it is not the code of such a currency.
pub fn parse_sale_currency(code: &str) -> Result<Currency, UnknownVariant> {
    let is_current = |currency: &Currency| match currency {
        // ISO 4217 lists VES beside VED, and Venezuela uses it; the crate has it as withdrawn.
        Currency::VES => true,
        other => other.flags().is_empty(),
    };
    parse_currency(code).ok().filter(is_current).ok_or_else(|| unknown_currency(code))
}

fn unknown_currency(code: &str) -> UnknownVariant {
    UnknownVariant {
        what: "currency",
        text: code.chars().take(8).collect(),
        choices: "the upper-case codes of ISO 4217 that goods can be sold in, such as EUR, USD, JPY".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn currency_that_nothing_can_be_sold_in_is_rejected() {
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

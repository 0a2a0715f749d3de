//! The amounts that the payment provider can charge: its currencies, increments, minimum and maximum. The API validates
//! orders and refunds with these rules, and the provider's client converts amounts with them. They are pure, so that
//! neither depends on the other.

use crate::{Currency, money::Amount};

/// The maximum number of digits of an amount at the provider.
const DIGITS_MAX: u32 = 8;

/// Why the provider can't charge an amount.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NotChargeable {
    /// The provider does not support the currency.
    #[error("the payment provider does not support this currency")]
    UnsupportedCurrency,
    /// The amount is not a multiple of the provider's increment.
    #[error(
        "must be a multiple of {0} minor units, the smallest amount of this currency at the payment provider"
    )]
    NotAMultiple(i64),
    /// The amount is below the minimum of a charge.
    #[error("must be at least {0} minor units, the payment provider's minimum for this currency")]
    TooSmall(i64),
    /// The amount is above the maximum of a charge.
    #[error("must be at most {0} minor units, the payment provider's maximum for this currency")]
    TooLarge(i64),
}

impl NotChargeable {
    /// A stable code, in the provider's style.
    pub fn code(self) -> &'static str {
        match self {
            Self::UnsupportedCurrency => "unsupported_currency",
            Self::NotAMultiple(_) => "amount_not_representable",
            Self::TooSmall(_) => "amount_too_small",
            Self::TooLarge(_) => "amount_too_large",
        }
    }
}

/// The provider's representation of a currency.
///
/// Our amounts are minor units of ISO 4217. The provider, Stripe, has other units for some currencies, accepts only
/// multiples of some amount for others, and has a minimum and a maximum charge.
///
/// Sources, all of them Stripe's:
/// - <https://docs.stripe.com/currencies>: "Supported presentment currencies" (all accounts together), "Zero-decimal
///   currencies", "Special cases" (ISK, UGX; HUF and TWD are special only for payouts), "Minimum and maximum charge
///   amounts".
/// - Three-decimal currencies: the same page, version of December 2022
///   (<https://web.archive.org/web/20221231002856/https://stripe.com/docs/currencies>). Later versions do not list
///   them.
/// - Maximum: eight digits according to <https://docs.stripe.com/api/payment_intents/create>, and the exceptions for
///   cards on the currencies page of our API version (2024-06-20). Later versions allow 12 digits for most cards.
///
/// Deliberately absent: an account's settlement currency. Stripe applies the minimum of the settlement currency after
/// conversion; this module applies the minimum of the charge's currency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProviderCurrency {
    /// ISO minor units per provider unit; 1 if the provider's unit is smaller.
    minor_per_unit: i64,
    /// Provider units per ISO minor unit; 1 if ISO's unit is smaller.
    units_per_minor: i64,
    /// The provider accepts only multiples of this number of its units.
    step: i64,
    /// The minimum charge, in the provider's units.
    minimum: i64,
    /// The maximum charge, in the provider's units.
    maximum: i64,
}

impl ProviderCurrency {
    /// Returns the provider's representation of a currency.
    ///
    /// # Errors
    /// If the provider does not support it.
    pub fn for_currency(currency: Currency) -> Result<Self, NotChargeable> {
        let decimals = decimals(currency).ok_or(NotChargeable::UnsupportedCurrency)?;
        let iso = currency.exponent().map_or(decimals, u32::from);
        let step = match (decimals, iso) {
            // For compatibility: two decimals that must be 00.
            (2, 0) => 100,
            // The provider's partners accept two of the three decimals.
            (3, _) => 10,
            _ => 1,
        };
        Ok(Self {
            minor_per_unit: 10_i64.pow(iso.saturating_sub(decimals)),
            units_per_minor: 10_i64.pow(decimals.saturating_sub(iso)),
            step,
            minimum: minimum(currency).max(step),
            maximum: 10_i64.pow(digits_max(currency)) - 1,
        })
    }

    /// Returns the provider's representation of a currency by the provider's code, in upper or lower case.
    ///
    /// # Errors
    /// If there is no such currency, or the provider does not support it.
    pub fn for_code(code: &str) -> Result<Self, NotChargeable> {
        let currency = Currency::from_code(&code.to_ascii_uppercase());
        currency.ok_or(NotChargeable::UnsupportedCurrency).and_then(Self::for_currency)
    }

    /// Converts an amount to the provider's units.
    ///
    /// # Errors
    /// If the amount is not a multiple of the provider's increment.
    pub fn to_provider(self, amount: Amount) -> Result<i64, NotChargeable> {
        if amount.minor() % self.increment() != 0 {
            return Err(NotChargeable::NotAMultiple(self.increment()));
        }
        Ok(amount.minor() / self.minor_per_unit * self.units_per_minor)
    }

    /// Converts the provider's units to ISO minor units. Returns `None` if these can't express the amount.
    pub fn to_minor(self, units: i64) -> Option<i64> {
        let minor = units.checked_mul(self.minor_per_unit)?;
        (minor % self.units_per_minor == 0).then_some(minor / self.units_per_minor)
    }

    /// Checks that the provider accepts a charge of this amount.
    ///
    /// # Errors
    /// If the provider never accepts it.
    pub fn check_charge(self, amount: Amount) -> Result<(), NotChargeable> {
        let units = self.to_provider(amount)?;
        if units < self.minimum {
            return Err(NotChargeable::TooSmall(self.to_minor_rounded_down(self.minimum)));
        }
        if units > self.maximum {
            return Err(NotChargeable::TooLarge(self.to_minor_rounded_down(self.maximum)));
        }
        Ok(())
    }

    /// The provider's increment in ISO minor units: every amount that the provider accepts is a multiple of it.
    pub fn increment(self) -> i64 {
        (self.step * self.minor_per_unit / self.units_per_minor).max(1)
    }

    /// Converts the provider's units to ISO minor units, rounded down to a multiple of the increment.
    fn to_minor_rounded_down(self, units: i64) -> i64 {
        let minor = units * self.minor_per_unit / self.units_per_minor;
        minor - minor % self.increment()
    }
}

/// The increment, in ISO minor units, of which the shares of an amount are multiples. 1 if the provider does not
/// support the currency: the API rejects such an order before payment.
pub fn amount_increment(currency: Currency) -> i64 {
    ProviderCurrency::for_currency(currency).map_or(1, ProviderCurrency::increment)
}

/// The decimals of the provider's unit; `None` for a currency that it does not support.
fn decimals(currency: Currency) -> Option<u32> {
    use Currency::*;
    Some(match currency {
        BIF | CLP | DJF | GNF | JPY | KMF | KRW | MGA | PYG | RWF | VND | VUV | XAF | XOF | XPF => 0,
        BHD | JOD | KWD | OMR | TND => 3,
        // The documentation also lists UGX as a zero-decimal currency; "Special cases" takes precedence.
        ISK | UGX => 2,
        AED | AFN | ALL | AMD | AOA | ARS | AUD | AWG | AZN | BAM | BBD | BDT | BGN | BMD | BND | BOB
        | BRL | BSD | BWP | BYN | BZD | CAD | CDF | CHF | CNY | COP | CRC | CVE | CZK | DKK | DOP | DZD
        | EGP | ETB | EUR | FJD | FKP | GBP | GEL | GIP | GMD | GTQ | GYD | HKD | HNL | HTG | HUF | IDR
        | ILS | INR | JMD | KES | KGS | KHR | KYD | KZT | LAK | LBP | LKR | LRD | LSL | MAD | MDL | MKD
        | MMK | MNT | MOP | MUR | MVR | MWK | MXN | MYR | MZN | NAD | NGN | NIO | NOK | NPR | NZD | PAB
        | PEN | PGK | PHP | PKR | PLN | QAR | RON | RSD | RUB | SAR | SBD | SCR | SEK | SGD | SHP | SLE
        | SOS | SRD | SZL | THB | TJS | TOP | TRY | TTD | TWD | TZS | UAH | USD | UYU | UZS | WST | XCD
        | YER | ZAR | ZMW => 2,
        _ => return None,
    })
}

/// The minimum charge in the provider's units; 1 if no minimum is documented.
fn minimum(currency: Currency) -> i64 {
    use Currency::*;
    match currency {
        GBP => 30,
        ARS | AUD | BRL | CAD | CHF | COP | EUR | IDR | ILS | INR | JPY | KRW | NZD | PHP | RUB | SGD
        | USD | ZAR => 50,
        BGN => 100,
        AED | MYR | PLN | RON => 200,
        DKK => 250,
        NOK | SEK => 300,
        HKD => 400,
        MXN | THB => 1_000,
        CZK => 1_500,
        HUF => 17_500,
        _ => 1,
    }
}

/// The maximum number of digits of a card charge, in the provider's units.
fn digits_max(currency: Currency) -> u32 {
    match currency {
        Currency::INR => 9,
        Currency::COP | Currency::HUF | Currency::JPY => 10,
        Currency::LBP => 11,
        Currency::IDR => 12,
        _ => DIGITS_MAX,
    }
}

#[cfg(test)]
mod tests;

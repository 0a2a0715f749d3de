//! Stripe's rules for amounts: <https://docs.stripe.com/currencies>, with the three-decimal currencies of its version
//! of December 2022. They are written from Stripe's documentation, independently of those in `waybill-domain`, so that
//! a mistake in one of the two makes a test fail.

use super::{bad_parameter, error_without_code};
use crate::exchange::Reply;

const CURRENCIES: &str = "usd aed afn all amd ang aoa ars aud awg azn bam bbd bdt bgn bhd bif bmd bnd bob brl bsd bwp byn \
    bzd cad cdf chf clp cny cop crc cve czk djf dkk dop dzd egp etb eur fjd fkp gbp gel gip gmd gnf gtq gyd hkd hnl htg \
    huf idr ils inr isk jmd jod jpy kes kgs khr kmf krw kwd kyd kzt lak lbp lkr lrd lsl mad mdl mga mkd mmk mnt mop mur \
    mvr mwk mxn myr mzn nad ngn nio nok npr nzd omr pab pen pgk php pkr pln pyg qar ron rsd rub rwf sar sbd scr sek sgd \
    shp sle sos srd std szl thb tjs tnd top try ttd twd tzs uah ugx uyu uzs vnd vuv wst xaf xcd xof xpf yer zar zmw";

/// Stripe's minimum charge; 1 for currencies that its table does not list.
const MINIMUMS: [(&str, i64); 32] = [
    ("usd", 50),
    ("aed", 200),
    ("ars", 50),
    ("aud", 50),
    ("bgn", 100),
    ("brl", 50),
    ("cad", 50),
    ("chf", 50),
    ("cop", 50),
    ("czk", 1500),
    ("dkk", 250),
    ("eur", 50),
    ("gbp", 30),
    ("hkd", 400),
    ("huf", 17500),
    ("idr", 50),
    ("ils", 50),
    ("inr", 50),
    ("jpy", 50),
    ("krw", 50),
    ("mxn", 1000),
    ("myr", 200),
    ("nok", 300),
    ("nzd", 50),
    ("php", 50),
    ("pln", 200),
    ("ron", 200),
    ("rub", 50),
    ("sek", 300),
    ("sgd", 50),
    ("thb", 1000),
    ("zar", 50),
];

/// Parses a currency code into lower case; rejects one that Stripe does not support.
pub(super) fn currency(text: &str) -> Result<String, Reply> {
    let currency = text.to_lowercase();
    if CURRENCIES.split_whitespace().any(|known| known == currency) {
        return Ok(currency);
    }
    let list = CURRENCIES.split_whitespace().collect::<Vec<_>>().join(", ");
    let message = format!("Invalid currency: {text}. Stripe currently supports these currencies: {list}");
    Err(error_without_code("currency", &message))
}

/// Rejects a charge that is too small, too large, or not a multiple of the currency's increment.
pub(super) fn check_charge(param: &str, amount: i64, currency: &str) -> Result<(), Reply> {
    let minimum = MINIMUMS.iter().find(|(of, _)| *of == currency).map_or(1, |(_, minimum)| *minimum);
    if amount < minimum {
        let message = format!("Amount must be at least {minimum} {currency}");
        return Err(bad_parameter("amount_too_small", param, &message));
    }
    let digits = match currency {
        "idr" => 12,
        "lbp" => 11,
        "cop" | "huf" | "jpy" => 10,
        "inr" => 9,
        _ => 8,
    };
    let maximum = 10_i64.pow(digits) - 1;
    if amount > maximum {
        let message = format!("Amount must be no more than {maximum} {currency}");
        return Err(bad_parameter("amount_too_large", param, &message));
    }
    check_multiple(param, amount, currency)
}

/// Rejects an amount of a charge, a capture or a refund that is not a multiple of the currency's increment.
pub(super) fn check_multiple(param: &str, amount: i64, currency: &str) -> Result<(), Reply> {
    let step = match currency {
        "isk" | "ugx" => 100,
        "bhd" | "jod" | "kwd" | "omr" | "tnd" => 10,
        _ => 1,
    };
    if amount % step == 0 {
        return Ok(());
    }
    let message = format!("Invalid amount: {amount}. Amounts in {currency} must be divisible by {step}.");
    Err(bad_parameter("invalid_charge_amount", param, &message))
}

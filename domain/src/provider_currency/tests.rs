//! Tests each special case of the provider's documentation separately.

use super::*;
use proptest::prelude::*;

fn amount(minor: i64) -> Amount {
    Amount::new(minor).unwrap()
}

fn units(currency: Currency) -> ProviderCurrency {
    ProviderCurrency::for_currency(currency).unwrap()
}

/// Converts the amount to the provider's units, and checks that it converts back to the same amount.
fn sent(currency: Currency, minor: i64) -> Result<i64, NotChargeable> {
    let units = units(currency);
    units
        .to_provider(amount(minor))
        .inspect(|to_provider_and_back| assert_eq!(units.to_minor(*to_provider_and_back), Some(minor)))
}

#[test]
fn isk_amount_is_sent_times_100() {
    assert_eq!(sent(Currency::ISK, 5), Ok(500));
    assert_eq!(units(Currency::ISK).to_minor(550), None, "a fraction of a króna can't be charged");
}

#[test]
fn ugx_amount_is_sent_times_100() {
    assert_eq!(sent(Currency::UGX, 5_000), Ok(500_000));
}

#[test]
fn mga_amount_is_sent_without_decimals() {
    assert_eq!(sent(Currency::MGA, 10_100), Ok(101));
    assert_eq!(sent(Currency::MGA, 1_005), Err(NotChargeable::NotAMultiple(100)));
}

#[test]
fn huf_and_twd_charges_have_two_decimals() {
    assert_eq!(sent(Currency::HUF, 1_045), Ok(1_045));
    assert_eq!(sent(Currency::TWD, 80_045), Ok(80_045));
}

#[test]
fn three_decimal_amounts_must_be_multiples_of_ten() {
    for currency in [Currency::BHD, Currency::JOD, Currency::KWD, Currency::OMR, Currency::TND] {
        assert_eq!(sent(currency, 5_120), Ok(5_120));
        assert_eq!(sent(currency, 5_124), Err(NotChargeable::NotAMultiple(10)), "{currency:?}");
    }
}

#[test]
fn zero_decimal_amounts_are_sent_as_they_are() {
    for code in "BIF CLP DJF GNF JPY KMF KRW PYG RWF VND VUV XAF XOF XPF".split(' ') {
        assert_eq!(sent(Currency::from_code(code).unwrap(), 500), Ok(500), "{code}");
    }
}

#[test]
fn only_the_special_cases_differ_from_iso() {
    let all =
        (b'A'..=b'Z').flat_map(|a| (b'A'..=b'Z').flat_map(move |b| (b'A'..=b'Z').map(move |c| [a, b, c])));
    let known = all.filter_map(|code| Currency::from_code(std::str::from_utf8(&code).unwrap()));
    let supported = known.filter(|currency| decimals(*currency).is_some());
    let (same, other): (Vec<_>, Vec<_>) =
        supported.partition(|c| c.exponent().map(u32::from) == decimals(*c));
    assert_eq!(other, [Currency::ISK, Currency::MGA, Currency::UGX]);
    assert!(same.len() > 130, "Stripe has more than 135 currencies: {}", same.len());
}

#[test]
fn unsupported_currency_is_rejected() {
    for currency in [Currency::IRR, Currency::CUP, Currency::LYD, Currency::XAU] {
        assert_eq!(ProviderCurrency::for_currency(currency), Err(NotChargeable::UnsupportedCurrency));
        assert_eq!(amount_increment(currency), 1);
    }
    assert_eq!(ProviderCurrency::for_code("zzz"), Err(NotChargeable::UnsupportedCurrency));
    assert_eq!(ProviderCurrency::for_code("isk"), ProviderCurrency::for_currency(Currency::ISK));
}

#[test]
fn charge_below_the_minimum_is_rejected() {
    for (currency, minimum) in [
        (Currency::EUR, 50),
        (Currency::GBP, 30),
        (Currency::JPY, 50),
        (Currency::HUF, 17_500),
        (Currency::MXN, 1_000),
        // Without a documented minimum, the smallest amount applies.
        (Currency::ISK, 1),
        (Currency::MGA, 100),
        (Currency::KWD, 10),
    ] {
        let (units, below) = (units(currency), minimum - amount_increment(currency));
        assert_eq!(units.check_charge(amount(minimum)), Ok(()), "{currency:?}");
        assert_eq!(units.check_charge(amount(below)), Err(NotChargeable::TooSmall(minimum)), "{currency:?}");
    }
}

#[test]
fn charge_above_the_maximum_is_rejected() {
    for (currency, maximum) in [
        (Currency::EUR, 99_999_999),
        (Currency::ISK, 999_999),
        (Currency::UGX, 999_999),
        (Currency::MGA, 9_999_999_900),
        (Currency::KWD, 99_999_990),
        (Currency::INR, 999_999_999),
        (Currency::JPY, 9_999_999_999),
    ] {
        let (units, above) = (units(currency), maximum + amount_increment(currency));
        assert_eq!(units.check_charge(amount(maximum)), Ok(()), "{currency:?}");
        assert_eq!(units.check_charge(amount(above)), Err(NotChargeable::TooLarge(maximum)), "{currency:?}");
    }
}

proptest! {
    #[test]
    fn amounts_come_back_as_they_were_sent(
        currency in prop::sample::select(vec![Currency::EUR, Currency::ISK, Currency::MGA, Currency::KWD]),
        minor in 0..=crate::money::AMOUNT_MAX,
    ) {
        let units = units(currency);
        match units.to_provider(amount(minor)) {
            Ok(to_provider_and_back) => prop_assert_eq!(units.to_minor(to_provider_and_back), Some(minor)),
            Err(error) => {
                prop_assert_eq!(error, NotChargeable::NotAMultiple(units.increment()));
                prop_assert!(minor % units.increment() != 0);
            }
        }
    }
}

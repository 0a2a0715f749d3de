//! The shipping address of a new order, and its validation.

use super::check::Validator;
use serde::Deserialize;
use waybill_domain::{country, order::Address};

/// The longest phone number, in characters: 15 digits (ITU-T E.164), an extension, and separators.
const PHONE_CHARS_MAX: usize = 32;
/// The longest e-mail address, in characters: the limit of an SMTP path (RFC 5321, 4.5.3.1.3; RFC 3696, erratum 1690).
const EMAIL_CHARS_MAX: usize = 254;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct RawAddress {
    name: String,
    line1: String,
    #[serde(default)]
    line2: Option<String>,
    city: String,
    #[serde(default)]
    postal_code: Option<String>,
    #[serde(default)]
    region: Option<String>,
    country: String,
    #[serde(default)]
    phone: Option<String>,
    #[serde(default)]
    email: Option<String>,
}

impl std::fmt::Debug for RawAddress {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("RawAddress(redacted)")
    }
}

impl Validator {
    pub(super) fn address(&mut self, raw: RawAddress) -> Address {
        let at = |field: &str| format!("/shipping_address/{field}");
        if !country::is_assigned(&raw.country) {
            self.reject(
                at("country"),
                "must be an officially assigned ISO 3166-1 alpha-2 code in upper case, such as NL",
            );
        } else if raw.postal_code.is_none() && country::has_postal_codes(&raw.country) {
            let detail = format!("is required: addresses in {} have a postal code", raw.country);
            self.reject(at("postal_code"), detail);
        }
        if raw.phone.as_deref().is_some_and(|phone| !is_phone(phone)) {
            let detail = format!(
                "must have 1 to {PHONE_CHARS_MAX} characters: digits, at least one, spaces and any of + - ( ) ."
            );
            self.reject(at("phone"), detail);
        }
        if raw.email.as_deref().is_some_and(|email| !is_email(email)) {
            let detail = format!(
                "must have one @ with something on both sides, no white space, and at most {EMAIL_CHARS_MAX} characters"
            );
            self.reject(at("email"), detail);
        }
        Address {
            name: self.validate_text(&at("name"), raw.name),
            line1: self.validate_text(&at("line1"), raw.line1),
            line2: raw.line2.map(|line| self.validate_text(&at("line2"), line)),
            city: self.validate_text(&at("city"), raw.city),
            postal_code: raw.postal_code.map(|code| self.validate_text(&at("postal_code"), code)),
            region: raw.region.map(|region| self.validate_text(&at("region"), region)),
            country: raw.country,
            phone: raw.phone,
            email: raw.email,
        }
    }
}

/// Returns whether a carrier could parse the text as a number. Only the carrier can check that the number exists.
fn is_phone(text: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_digit() || b" +-().".contains(&b);
    // Allowed characters are one byte each.
    (1..=PHONE_CHARS_MAX).contains(&text.len())
        && text.bytes().all(is_allowed)
        && text.bytes().any(|b| b.is_ascii_digit())
}

/// Returns whether the text has the shape of an e-mail address. Only a message to the address shows that it exists.
fn is_email(text: &str) -> bool {
    let has_shape = text
        .split_once('@')
        .is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty() && !domain.contains('@'));
    let is_bad = |c: char| c.is_control() || c.is_whitespace();
    has_shape && text.chars().count() <= EMAIL_CHARS_MAX && !text.contains(is_bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn phone_of_other_characters_is_rejected() {
        for phone in ["1", "+31 (0)20-555.01.00", &"9".repeat(32)] {
            assert!(is_phone(phone), "{phone}");
        }
        for phone in ["", " ", "+-", "555 x12", "\u{661}\u{662}", "5\n5", "5\u{0}", &"9".repeat(33)] {
            assert!(!is_phone(phone), "{phone:?}");
        }
    }

    #[test]
    fn email_of_another_shape_is_rejected() {
        let of_length = |length: usize| format!("{}@b", "a".repeat(length - 2));
        for email in ["a@b", "zoë+tag@exämple.org", &of_length(254)] {
            assert!(is_email(email), "{email}");
        }
        for email in ["", "a", "@", "a@", "@b", "a@b@c", "a b@c", "a@b\n", "a\u{0}@b", &of_length(255)] {
            assert!(!is_email(email), "{email:?}");
        }
    }
}

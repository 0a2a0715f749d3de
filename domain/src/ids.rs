//! Identifiers. Each has its own type, so that the compiler rejects an id of the wrong kind.

use serde::{Deserialize, Serialize};
use std::{fmt, str::FromStr};
use uuid::Uuid;

macro_rules! uuid_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;
            fn from_str(s: &str) -> Result<Self, Self::Err> {
                s.parse().map(Self)
            }
        }

        impl From<Uuid> for $name {
            fn from(id: Uuid) -> Self {
                Self(id)
            }
        }
    };
}

uuid_id!(
    /// An order. UUIDv7, generated when the order is accepted.
    OrderId
);
uuid_id!(
    /// A merchant: the tenant that owns orders, stock and keys.
    MerchantId
);
uuid_id!(
    /// A shipment of an order: the units that leave one location together. UUIDv5 of order and location (see
    /// [`ShipmentId::for_location`]), so that planning twice gives the same ids.
    ShipmentId
);

uuid_id!(
    /// A refund. UUIDv7 if a client requested it, UUIDv5 if it follows from a return or was made at the provider.
    RefundId
);
uuid_id!(
    /// A return: items of an order that come back. UUIDv7 if a client requested it, UUIDv5 of its shipment if the
    /// carrier unexpectedly brings the shipment back or ships it.
    ReturnId
);

impl RefundId {
    /// The id of the refund's workflow.
    pub fn workflow_id(self) -> String {
        format!("refund:{self}")
    }

    /// The id of a refund that was made at the provider, derived from the provider's id so that it is recorded only
    /// once.
    pub fn for_provider_refund(order: OrderId, provider_ref: &str) -> Self {
        Self(Uuid::new_v5(&order.0, format!("provider refund:{provider_ref}").as_bytes()))
    }
}

impl ReturnId {
    /// The id of the return's workflow.
    pub fn workflow_id(self) -> String {
        format!("return:{self}")
    }

    /// The id of a refund for this return: one refund per captured payment, numbered from 0.
    pub fn refund_id(self, part: usize) -> RefundId {
        let name = if part == 0 { "refund".to_owned() } else { format!("refund:{part}") };
        RefundId(Uuid::new_v5(&self.0, name.as_bytes()))
    }

    /// The id of the return of a shipment for which no client requested one: the shipment left after its cancellation,
    /// or the carrier brings it back.
    pub fn for_unexpected_shipment(shipment: ShipmentId) -> Self {
        Self(Uuid::new_v5(&shipment.0, b"return"))
    }
}

impl OrderId {
    /// The id of the order's workflow: one workflow per order, so a second start finds the first.
    pub fn workflow_id(self) -> String {
        format!("order:{self}")
    }
}

impl ShipmentId {
    /// The id of the shipment that serves `order` from `location`.
    pub fn for_location(order: OrderId, location: &Location) -> Self {
        Self(Uuid::new_v5(&order.0, location.as_str().as_bytes()))
    }

    /// The id of the shipment that replaces this one when some of its units were cancelled. The carrier never accepts
    /// the id of a cancelled shipment again.
    #[must_use]
    pub fn replacement(self) -> Self {
        Self(Uuid::new_v5(&self.0, b"successor"))
    }

    /// The id of the shipment that serves missing units of this one from another location.
    #[must_use]
    pub fn replacement_from(self, location: &Location) -> Self {
        Self(Uuid::new_v5(&self.0, format!("served from:{}", location.as_str()).as_bytes()))
    }
}

/// Why a text is not a valid identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum InvalidId {
    /// The text is empty.
    #[error("must not be empty")]
    Empty,
    /// The text is longer than the type allows.
    #[error("must be at most {0} characters long")]
    TooLong(usize),
    /// The text contains a space or a character outside the printable ASCII range.
    #[error("must consist of printable ASCII characters without spaces")]
    InvalidCharacter,
    /// The text is not a valid SKU.
    #[error(
        "must have 1 to {max} characters, no control character and no line or paragraph separator among them, no white \
         space at either end, and not be \".\" or \"..\"",
        max = Sku::MAX_CHARS
    )]
    InvalidSku,
}

/// Accepts printable ASCII without spaces.
fn validate_ascii(text: &str, chars_max: usize) -> Result<(), InvalidId> {
    match text {
        "" => Err(InvalidId::Empty),
        // The next rule ensures that each character has one byte.
        _ if text.len() > chars_max => Err(InvalidId::TooLong(chars_max)),
        _ if !text.bytes().all(|b| b.is_ascii_graphic()) => Err(InvalidId::InvalidCharacter),
        _ => Ok(()),
    }
}

/// Accepts a SKU from a request. `.` and `..` are invalid: clients treat them as relative path segments, also
/// percent-encoded (RFC 3986, 5.2.4), so their stock could not be read.
///
/// Two SKUs are equal if their bytes are equal: nothing is normalized, and the merchant is responsible for format
/// characters and for characters that Unicode has not assigned yet.
fn validate_sku(text: &str, chars_max: usize) -> Result<(), InvalidId> {
    if [".", ".."].contains(&text) {
        Err(InvalidId::InvalidSku)
    } else {
        validate_stored_sku(text, chars_max)
    }
}

/// Accepts a stored SKU, also `.` and `..` of earlier releases, so that old histories and rows stay readable.
fn validate_stored_sku(text: &str, chars_max: usize) -> Result<(), InvalidId> {
    let has_separator = |c: char| c.is_control() || ['\u{2028}', '\u{2029}'].contains(&c);
    let is_valid_length = (1..=chars_max).contains(&text.chars().count());
    if is_valid_length && text.trim() == text && !text.contains(has_separator) {
        Ok(())
    } else {
        Err(InvalidId::InvalidSku)
    }
}

/// `$stored` validates texts from Postgres or a history, `$new` validates texts from requests.
macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr, stored: $stored:ident, new: $new:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The maximum length in characters.
            pub const MAX_CHARS: usize = $max;

            /// The text.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = InvalidId;
            fn try_from(text: String) -> Result<Self, InvalidId> {
                $stored(&text, $max)?;
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = InvalidId;
            fn from_str(s: &str) -> Result<Self, InvalidId> {
                $new(s, $max)?;
                Ok(Self(s.to_owned()))
            }
        }

        impl From<$name> for String {
            fn from(id: $name) -> String {
                id.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

text_id!(
    /// A stock keeping unit, as the merchant names it: printable Unicode. Parse one from a request with [`FromStr`],
    /// which is stricter than the rules for stored SKUs.
    Sku, 100, stored: validate_stored_sku, new: validate_sku
);
text_id!(
    /// A location where stock is stored and from which it ships.
    Location, 64, stored: validate_ascii, new: validate_ascii
);
text_id!(
    /// The merchant's id for a customer. A pseudonym: no e-mail address and no personal name.
    CustomerId, 64, stored: validate_ascii, new: validate_ascii
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn invalid_text_id_is_rejected() {
        assert_eq!("".parse::<Location>(), Err(InvalidId::Empty));
        assert_eq!("a b".parse::<Location>(), Err(InvalidId::InvalidCharacter));
        assert_eq!("x".repeat(65).parse::<Location>(), Err(InvalidId::TooLong(64)));
        assert!(serde_json::from_str::<Location>("\"\\u0000\"").is_err());
        assert_eq!("AMS-1".parse::<Location>().unwrap().as_str(), "AMS-1");
    }

    #[test]
    fn sku_of_printable_unicode_is_accepted() {
        let longest = "é".repeat(100);
        for text in [
            "SHOE-42",
            "Schuh 42 grün",
            "a/b?c#d%20e",
            "...",
            "靴・42",
            "👟",
            "\u{200b}",
            "e\u{301}",
            &longest,
        ] {
            assert_eq!(text.parse::<Sku>().unwrap().as_str(), text);
        }
    }

    #[test]
    fn invalid_sku_is_rejected() {
        let too_long = "é".repeat(101);
        for text in [
            "",
            " ",
            "a ",
            "\u{a0}a",
            "a\u{3000}",
            "a\nb",
            "\u{0}",
            "a\u{7f}",
            "a\u{85}b",
            ".",
            "..",
            &too_long,
        ] {
            assert_eq!(text.parse::<Sku>(), Err(InvalidId::InvalidSku), "{text:?}");
        }
        for text in ["a\u{2028}b", "a\u{2029}b"] {
            assert_eq!(text.parse::<Sku>(), Err(InvalidId::InvalidSku), "{text:?}");
        }
        let rule = InvalidId::InvalidSku.to_string();
        assert!(rule.contains("1 to 100 characters") && rule.contains("white space"), "{rule}");
    }

    #[test]
    fn stored_sku_of_an_older_release_stays_readable() {
        assert_eq!(serde_json::from_str::<Sku>("\"..\"").unwrap().as_str(), "..");
        assert!(serde_json::from_str::<Sku>("\"a\\u0000\"").is_err());
    }

    #[test]
    fn shipment_id_follows_from_order_and_location() {
        let order = OrderId(Uuid::from_u128(7));
        let (ams, rtm) = ("AMS".parse().unwrap(), "RTM".parse().unwrap());
        assert_eq!(ShipmentId::for_location(order, &ams), ShipmentId::for_location(order, &ams));
        assert_ne!(ShipmentId::for_location(order, &ams), ShipmentId::for_location(order, &rtm));
    }
}

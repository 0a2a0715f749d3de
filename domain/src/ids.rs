//! Identifiers. Each is its own type, so that one can't be passed where another is meant.

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
    /// An order. UUIDv7, made when the order is accepted.
    OrderId
);
uuid_id!(
    /// A merchant: the tenant that owns orders, stock and keys.
    MerchantId
);
uuid_id!(
    /// A shipment of an order: the goods that leave one location together. UUIDv5 of order and location
    /// (see [`ShipmentId::derive`]), so that planning twice gives the same ids.
    ShipmentId
);

uuid_id!(
    /// A refund. UUIDv7 where somebody asked for it, UUIDv5 where it follows from a return or was made at the provider.
    RefundId
);
uuid_id!(
    /// A return: goods of an order that come back. UUIDv7 where somebody asked for it, UUIDv5 of its shipment where
    /// the carrier brings back, or takes along, what nobody expected.
    ReturnId
);

impl RefundId {
    /// The id of the refund's workflow.
    pub fn workflow_id(self) -> String {
        format!("refund:{self}")
    }

    /// The id of a refund that was made at the provider and not here: each is booked once.
    pub fn of_provider(order: OrderId, provider_ref: &str) -> Self {
        Self(Uuid::new_v5(&order.0, format!("provider refund:{provider_ref}").as_bytes()))
    }
}

impl ReturnId {
    /// The id of the return's workflow.
    pub fn workflow_id(self) -> String {
        format!("return:{self}")
    }

    /// The id of a refund of what came back: one from each payment that it was captured of, counted from 0.
    pub fn refund_id(self, part: usize) -> RefundId {
        let name = if part == 0 { "refund".to_owned() } else { format!("refund:{part}") };
        RefundId(Uuid::new_v5(&self.0, name.as_bytes()))
    }

    /// The id of the return of a shipment that nobody asked back: it left although it had been cancelled, or the carrier
    /// brings it back.
    pub fn of_unexpected(shipment: ShipmentId) -> Self {
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
    pub fn derive(order: OrderId, location: &Location) -> Self {
        Self(Uuid::new_v5(&order.0, location.as_str().as_bytes()))
    }

    /// The id of the shipment that takes over what is left of this one when some of its goods were cancelled: the
    /// carrier knows a cancelled shipment's id as cancelled for ever.
    #[must_use]
    pub fn successor(self) -> Self {
        Self(Uuid::new_v5(&self.0, b"successor"))
    }
}

/// Why a text was not accepted as an identifier.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadText {
    /// Nothing was given.
    #[error("must not be empty")]
    Empty,
    /// Longer than the type allows.
    #[error("must be at most {0} characters long")]
    TooLong(usize),
    /// A character outside the printable ASCII range, or a space.
    #[error("must consist of printable ASCII characters without spaces")]
    BadCharacter,
}

macro_rules! text_id {
    ($(#[$doc:meta])* $name:ident, $max:expr) => {
        $(#[$doc])*
        #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(try_from = "String", into = "String")]
        pub struct $name(String);

        impl $name {
            /// The most characters it may have.
            pub const MAX_CHARS: usize = $max;

            /// The text itself.
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = BadText;
            fn try_from(text: String) -> Result<Self, BadText> {
                if text.is_empty() {
                    return Err(BadText::Empty);
                }
                if text.len() > $max {
                    return Err(BadText::TooLong($max));
                }
                if !text.bytes().all(|b| b.is_ascii_graphic()) {
                    return Err(BadText::BadCharacter);
                }
                Ok(Self(text))
            }
        }

        impl FromStr for $name {
            type Err = BadText;
            fn from_str(s: &str) -> Result<Self, BadText> {
                s.to_owned().try_into()
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
    /// A stock keeping unit, as the merchant names it.
    Sku, 64
);
text_id!(
    /// A place that stock lies at and ships from.
    Location, 64
);
text_id!(
    /// The merchant's name for a customer. A pseudonym: no e-mail address, no name of a person.
    CustomerId, 64
);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_ids_refuse_what_they_should() {
        assert_eq!("".parse::<Sku>(), Err(BadText::Empty));
        assert_eq!("a b".parse::<Sku>(), Err(BadText::BadCharacter));
        assert_eq!("x".repeat(65).parse::<Sku>(), Err(BadText::TooLong(64)));
        assert!(serde_json::from_str::<Sku>("\"\\u0000\"").is_err());
        assert_eq!("SHOE-42".parse::<Sku>().unwrap().as_str(), "SHOE-42");
    }

    #[test]
    fn shipment_ids_depend_on_order_and_location_alone() {
        let order = OrderId(Uuid::from_u128(7));
        let (ams, rtm) = ("AMS".parse().unwrap(), "RTM".parse().unwrap());
        assert_eq!(ShipmentId::derive(order, &ams), ShipmentId::derive(order, &ams));
        assert_ne!(ShipmentId::derive(order, &ams), ShipmentId::derive(order, &rtm));
    }
}

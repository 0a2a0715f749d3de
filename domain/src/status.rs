//! The order's three axes and the one table of what may follow what.
//!
//! [`transition`] is the only judge of an order's next status: workflow, API, documentation and tests follow it.

/// A text that names no member of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {text:?}; one of: {choices}")]
pub struct UnknownVariant {
    /// The enumeration.
    pub what: &'static str,
    /// What was given.
    pub text: String,
    /// What could be given.
    pub choices: String,
}

/// An enumeration with one pinned name per member: in JSON, in SQL and in URLs alike.
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every member, in the order of declaration.
            pub const ALL: &[Self] = &[$(Self::$variant),+];

            /// The pinned name.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text),+ }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::status::UnknownVariant;
            fn from_str(text: &str) -> Result<Self, $crate::status::UnknownVariant> {
                match text {
                    $($text => Ok(Self::$variant),)+
                    _ => Err($crate::status::UnknownVariant {
                        what: $what,
                        text: text.chars().take(64).collect(),
                        choices: Self::ALL.iter().map(|m| m.as_str()).collect::<Vec<_>>().join(", "),
                    }),
                }
            }
        }
    };
}
pub(crate) use string_enum;

string_enum!(
    /// Where the order as a whole stands.
    OrderStatus "order status" {
        /// Durable in Postgres; its workflow may not have begun.
        Received = "received",
        /// Stock is being set aside.
        Reserving = "reserving",
        /// Some lines are short and the customer is asked; a durable timer runs.
        AwaitingCustomer = "awaiting_customer",
        /// Payment authorization is asked for; its outcome is not known yet.
        Authorizing = "authorizing",
        /// The risk decision asks a person; a durable timer runs.
        InReview = "in_review",
        /// Stock and money are held: the promise to the customer.
        Confirmed = "confirmed",
        /// Labels are booked, nothing is handed over.
        Fulfilling = "fulfilling",
        /// At least one shipment is handed over, and at least one is not.
        PartiallyShipped = "partially_shipped",
        /// All that will ship is handed over.
        Shipped = "shipped",
        /// All shipments are delivered.
        Delivered = "delivered",
        /// Settled.
        Completed = "completed",
        /// The undo runs.
        Cancelling = "cancelling",
        /// Ended by a person or a system's request; nothing is held.
        Cancelled = "cancelled",
        /// Ended by a refusal (stock, payment, risk); nothing is held.
        Rejected = "rejected",
        /// Ended because nobody answered in time; nothing is held.
        Expired = "expired",
    }
);

string_enum!(
    /// Where the order's money stands.
    PaymentStatus "payment status" {
        /// Nothing was asked of the provider.
        None = "none",
        /// The order's total is zero: the provider is never asked.
        NotRequired = "not_required",
        /// An authorization is asked for or waits for the customer.
        Pending = "pending",
        /// Money is held.
        Authorized = "authorized",
        /// Some shipments are captured.
        PartiallyCaptured = "partially_captured",
        /// All that shipped is captured.
        Captured = "captured",
        /// The authorization was given back.
        Voided = "voided",
        /// Part of what was captured went back.
        PartiallyRefunded = "partially_refunded",
        /// All that was captured went back.
        Refunded = "refunded",
        /// The provider refused.
        Declined = "declined",
        /// An operation's outcome is not known; it is being found out. Never a guess.
        Unknown = "unknown",
    }
);

string_enum!(
    /// Where one shipment stands.
    FulfilmentStatus "fulfilment status" {
        /// Planned; no label yet.
        Pending = "pending",
        /// The carrier has given a label.
        Booked = "booked",
        /// The goods are with the carrier: the pivot, money is captured.
        HandedOver = "handed_over",
        /// The goods arrived.
        Delivered = "delivered",
        /// The label was cancelled before hand-over.
        Cancelled = "cancelled",
        /// The carrier lost the goods.
        Lost = "lost",
        /// The goods came back.
        Returned = "returned",
    }
);

string_enum!(
    /// How a completed order ended.
    Outcome "outcome" {
        /// Everything ordered was delivered.
        Full = "full",
        /// Some of it was delivered; the rest was cancelled, short or lost.
        Partial = "partial",
    }
);

/// A step from one order status to another that the lifecycle does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("an order can't go from {from} to {to}")]
pub struct IllegalTransition {
    /// Where the order stands.
    pub from: OrderStatus,
    /// Where it was to go.
    pub to: OrderStatus,
}

impl OrderStatus {
    /// What may directly follow this status.
    pub fn allowed_next(self) -> &'static [Self] {
        use OrderStatus::*;
        match self {
            Received => &[Reserving, Cancelling, Cancelled],
            Reserving => &[Authorizing, AwaitingCustomer, Rejected, Cancelling],
            AwaitingCustomer => &[Authorizing, Cancelling, Expired],
            Authorizing => &[InReview, Confirmed, Rejected, Cancelling],
            InReview => &[Confirmed, Rejected, Expired, Cancelling],
            Confirmed => &[Fulfilling, Cancelling],
            Fulfilling => &[PartiallyShipped, Shipped, Cancelling],
            PartiallyShipped => &[Shipped, Cancelling],
            Shipped => &[Delivered],
            Delivered => &[Completed],
            Cancelling => &[Cancelled, Fulfilling, PartiallyShipped],
            Completed | Cancelled | Rejected | Expired => &[],
        }
    }

    /// Whether nothing follows: the order's workflow has ended or is about to.
    pub fn is_terminal(self) -> bool {
        self.allowed_next().is_empty()
    }

    /// The statuses that nothing follows.
    pub fn terminal() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|status| status.is_terminal())
    }

    /// Whether somebody who waits for the order's fate has an answer: it is confirmed or later, ended, or needs a
    /// person.
    pub fn ends_wait(self) -> bool {
        use OrderStatus::*;
        !matches!(self, Received | Reserving | Authorizing | Cancelling)
    }
}

/// Checks one step of the order's life.
///
/// # Errors
/// When the lifecycle has no such step.
pub fn transition(from: OrderStatus, to: OrderStatus) -> Result<OrderStatus, IllegalTransition> {
    if from.allowed_next().contains(&to) { Ok(to) } else { Err(IllegalTransition { from, to }) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_status() -> impl Strategy<Value = OrderStatus> {
        prop::sample::select(OrderStatus::ALL)
    }

    proptest! {
        #[test]
        fn a_step_is_legal_exactly_when_the_table_has_it(from in any_status(), to in any_status()) {
            prop_assert_eq!(transition(from, to).is_ok(), from.allowed_next().contains(&to));
            prop_assert!(!from.is_terminal() || transition(from, to).is_err());
        }

        #[test]
        fn every_walk_can_end(start in any_status(), choices in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
            let mut at = start;
            for choice in choices {
                if at.is_terminal() { break }
                at = at.allowed_next()[choice.index(at.allowed_next().len())];
            }
            let mut reached = vec![at];
            let mut i = 0;
            while i < reached.len() {
                for next in reached[i].allowed_next() {
                    if !reached.contains(next) { reached.push(*next) }
                }
                i += 1;
            }
            prop_assert!(reached.iter().any(|s| s.is_terminal()));
        }

        #[test]
        fn names_round_trip(status in any_status()) {
            prop_assert_eq!(status.as_str().parse::<OrderStatus>().unwrap(), status);
            prop_assert_eq!(serde_json::to_string(&status).unwrap(), format!("\"{status}\""));
        }
    }

    #[test]
    fn goods_that_left_the_house_are_never_cancelled() {
        use OrderStatus::*;
        for after_hand_over in [Shipped, Delivered, Completed] {
            assert!(transition(after_hand_over, Cancelling).is_err());
        }
        assert!(transition(Fulfilling, Completed).is_err(), "never completed with nothing delivered");
    }

    #[test]
    fn unknown_names_list_the_choices() {
        let error = "shiped".parse::<OrderStatus>().unwrap_err();
        assert!(error.to_string().contains("partially_shipped"), "{error}");
    }

    /// The words between backquotes.
    fn quoted(cell: &str) -> Vec<&str> {
        cell.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn the_documented_table_is_the_codes_own() {
        let page = include_str!("../../docs/reference/statuses.md");
        let mut documented = Vec::new();
        for row in page.lines().filter(|line| line.starts_with("| `")) {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            for status in quoted(cells[1]) {
                let status: OrderStatus = status.parse().unwrap();
                let mut next: Vec<OrderStatus> =
                    quoted(cells[3]).iter().map(|s| s.parse().unwrap()).collect();
                let mut expected = status.allowed_next().to_vec();
                next.sort();
                expected.sort();
                assert_eq!(next, expected, "docs/reference/statuses.md says otherwise of {status}");
                documented.push(status);
            }
        }
        documented.sort();
        assert_eq!(documented, OrderStatus::ALL, "every status is documented once");
    }
}

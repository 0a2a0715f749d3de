//! The statuses of an order, its payment and its shipments, and the table of allowed transitions. [`transition`] is the
//! only function that decides an order's next status: workflow, API, documentation and tests follow it.

/// A text that is not a value of an enumeration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("unknown {what} {text:?}; one of: {choices}")]
pub struct UnknownVariant {
    /// The enumeration.
    pub what: &'static str,
    /// The given text.
    pub text: String,
    /// The valid texts.
    pub choices: String,
}

/// An enumeration with one pinned name per value, used in JSON, in SQL and in URLs.
macro_rules! string_enum {
    ($(#[$doc:meta])* $name:ident $what:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        pub enum $name { $($(#[$vdoc])* #[serde(rename = $text)] $variant),+ }

        impl $name {
            /// Every value, in the order of declaration.
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
    /// The status of the order as a whole.
    OrderStatus "order status" {
        /// Durable in Postgres; its workflow may not have started.
        Received = "received",
        /// Stock is being reserved.
        Reserving = "reserving",
        /// Some lines are short and the customer must decide; a durable timer runs.
        AwaitingCustomer = "awaiting_customer",
        /// Payment authorization was requested; its outcome is not known yet.
        Authorizing = "authorizing",
        /// The risk decision requires manual review; a durable timer runs.
        InReview = "in_review",
        /// Stock is reserved and the payment is authorized.
        Confirmed = "confirmed",
        /// Labels are booked, nothing is handed over.
        Fulfilling = "fulfilling",
        /// At least one shipment is handed over, and at least one is not.
        PartiallyShipped = "partially_shipped",
        /// Every shipment that will ship is handed over.
        Shipped = "shipped",
        /// All shipments are delivered.
        Delivered = "delivered",
        /// Settled.
        Completed = "completed",
        /// The compensations run.
        Cancelling = "cancelling",
        /// Ended by a request of a user or a system; no stock or authorization is held.
        Cancelled = "cancelled",
        /// Ended because stock, payment or risk check failed; no stock or authorization is held.
        Rejected = "rejected",
        /// Ended because a deadline passed without a decision; no stock or authorization is held.
        Expired = "expired",
    }
);

string_enum!(
    /// The status of the order's payment.
    PaymentStatus "payment status" {
        /// No request was sent to the provider.
        None = "none",
        /// The order's total is zero: no request is ever sent to the provider.
        NotRequired = "not_required",
        /// An authorization was requested, or waits for the customer.
        Pending = "pending",
        /// The total is authorized.
        Authorized = "authorized",
        /// Some shipments are captured.
        PartiallyCaptured = "partially_captured",
        /// Every shipment that left is captured.
        Captured = "captured",
        /// The authorization was voided.
        Voided = "voided",
        /// Part of the captured amount was refunded.
        PartiallyRefunded = "partially_refunded",
        /// The captured amount was refunded in full.
        Refunded = "refunded",
        /// The provider declined the payment.
        Declined = "declined",
        /// The outcome of an operation is not known; it is being determined, never guessed.
        Unknown = "unknown",
    }
);

string_enum!(
    /// The status of one shipment.
    FulfilmentStatus "fulfilment status" {
        /// Planned; no label yet.
        Pending = "pending",
        /// The carrier has issued a label.
        Booked = "booked",
        /// The carrier has the shipment: the pivot, at which the payment is captured.
        HandedOver = "handed_over",
        /// The shipment arrived.
        Delivered = "delivered",
        /// The label was cancelled before the hand-over.
        Cancelled = "cancelled",
        /// The carrier lost the shipment.
        Lost = "lost",
        /// The shipment came back.
        Returned = "returned",
    }
);

string_enum!(
    /// The outcome of a completed order.
    Outcome "outcome" {
        /// Every ordered unit was delivered.
        Full = "full",
        /// Some units were delivered; the rest was cancelled, short or lost.
        Partial = "partial",
    }
);

/// A transition from one order status to another that the lifecycle does not have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid status transition from {from} to {to}")]
pub struct IllegalTransition {
    /// The current status.
    pub from: OrderStatus,
    /// The requested status.
    pub to: OrderStatus,
}

impl OrderStatus {
    /// The statuses that may directly follow this one.
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

    /// Returns whether no status follows: the order's workflow has ended or is about to.
    pub fn is_terminal(self) -> bool {
        self.allowed_next().is_empty()
    }

    /// The statuses that no other follows.
    pub fn terminal() -> impl Iterator<Item = Self> {
        Self::ALL.iter().copied().filter(|status| status.is_terminal())
    }

    /// Returns whether a client's wait for the outcome of checkout ends: the order is confirmed or later, has ended, or
    /// requires a decision.
    pub fn ends_wait(self) -> bool {
        use OrderStatus::*;
        !matches!(self, Received | Reserving | Authorizing | Cancelling)
    }
}

/// Checks one transition of an order.
///
/// # Errors
/// If the lifecycle has no such transition.
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
        fn transition_is_legal_iff_listed(from in any_status(), to in any_status()) {
            prop_assert_eq!(transition(from, to).is_ok(), from.allowed_next().contains(&to));
            prop_assert!(!from.is_terminal() || transition(from, to).is_err());
        }

        #[test]
        fn every_status_reaches_a_terminal_one(start in any_status(), choices in prop::collection::vec(any::<prop::sample::Index>(), 0..12)) {
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
    fn cancel_after_shipping_is_illegal() {
        use OrderStatus::*;
        for after_hand_over in [Shipped, Delivered, Completed] {
            assert!(transition(after_hand_over, Cancelling).is_err());
        }
        assert!(transition(Fulfilling, Completed).is_err(), "completed without a delivery");
    }

    #[test]
    fn unknown_names_list_the_choices() {
        let error = "shiped".parse::<OrderStatus>().unwrap_err();
        assert!(error.to_string().contains("partially_shipped"), "{error}");
    }

    /// The texts between backquotes.
    fn quoted(cell: &str) -> Vec<&str> {
        cell.split('`').skip(1).step_by(2).collect()
    }

    #[test]
    fn documented_table_matches_the_code() {
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
                assert_eq!(next, expected, "docs/reference/statuses.md disagrees on {status}");
                documented.push(status);
            }
        }
        documented.sort();
        assert_eq!(documented, OrderStatus::ALL, "every status is documented once");
    }
}

//! A stored dispute.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// A merchant has at least seven days to respond, depending on the card network:
/// <https://docs.stripe.com/disputes/responding>.
const EVIDENCE_SECONDS: i64 = 7 * 24 * 3600;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum DisputeStatus {
    NeedsResponse,
    Won,
    Lost,
}

#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Dispute {
    pub id: String,
    pub payment_intent: String,
    pub charge: Option<String>,
    pub amount: i64,
    pub currency: String,
    pub reason: String,
    pub status: DisputeStatus,
    pub created: i64,
}

impl Dispute {
    pub fn json(&self) -> Value {
        json!({
            "id": self.id,
            "object": "dispute",
            "amount": self.amount,
            "charge": self.charge,
            "currency": self.currency,
            "payment_intent": self.payment_intent,
            "reason": self.reason,
            "status": self.status,
            "evidence_details": { "due_by": self.created + EVIDENCE_SECONDS },
            "metadata": {},
            "created": self.created,
        })
    }
}

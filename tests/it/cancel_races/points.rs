//! The points of an order's path at which a cancel races with another message.

use super::*;

pub(super) const MOMENT: Moment = Moment {
    name: "",
    shipments: 1,
    before: &[],
    answer: Accepted,
    after: &[],
    end: ("cancelled", 0),
    attention: None,
    told: &[],
};

pub(super) const BOOKED: [Action; 2] = [Approve, Reach("fulfilling")];

pub(super) const LABELS: &[Moment] = &[
    Moment {
        name: "the label is being booked",
        before: &[StallLabel(Route::Book, 0), Approve, Stalled],
        after: &[LetGo],
        told: &["payment.voided", "stock.released"],
        ..MOMENT
    },
    Moment {
        name: "the booking of the second label is being retried",
        shipments: 2,
        before: &[StallLabel(Route::Book, 1), Approve, Stalled, Told("step.retrying")],
        after: &[LetGo],
        told: &["payment.voided"],
        ..MOMENT
    },
    Moment {
        name: "the label is booked and the response is lost",
        before: &[LoseLabel(Route::Book, 0), Approve, Told("step.retrying")],
        after: &[LetGo],
        told: &["payment.voided"],
        ..MOMENT
    },
    Moment { name: "the label is booked", before: &BOOKED, told: &["shipment.cancelled"], ..MOMENT },
    Moment {
        name: "the first is handed over while the second is being booked",
        shipments: 2,
        before: &[StallLabel(Route::Book, 1), Approve, Stalled, Told("step.retrying"), Says(0, "hand_over")],
        after: &[LetGo],
        end: ("completed", 1),
        told: &["shipment.cancel_refused", "shipment.cancelled"],
        ..MOMENT
    },
    Moment {
        name: "another void is in progress",
        before: &[BOOKED[0], BOOKED[1], StallMoney(Route::Void), Cancel, Stalled, Told("step.retrying")],
        after: &[LetGo],
        ..MOMENT
    },
    Moment {
        name: "another request to the carrier is in progress",
        before: &[BOOKED[0], BOOKED[1], StallLabel(Route::Cancel, 0), Cancel, Stalled, Told("step.retrying")],
        after: &[LetGo],
        told: &["shipment.cancelled"],
        ..MOMENT
    },
];

pub(super) const HAND_OVERS: &[Moment] = &[
    Moment {
        name: "just handed over",
        before: &[BOOKED[0], BOOKED[1], Says(0, "hand_over")],
        answer: InTheEndRefused,
        end: ("completed", 2),
        ..MOMENT
    },
    Moment {
        name: "handed over during the request to the carrier",
        before: &[BOOKED[0], BOOKED[1], StallLabel(Route::Cancel, 0)],
        after: &[Stalled, Says(0, "hand_over"), LetGo],
        end: ("completed", 2),
        told: &["shipment.cancel_refused"],
        ..MOMENT
    },
    Moment {
        name: "one of two handed over during the request to the carrier",
        shipments: 2,
        before: &[BOOKED[0], BOOKED[1], StallLabel(Route::Cancel, 1)],
        after: &[Stalled, Says(1, "hand_over"), LetGo],
        end: ("completed", 1),
        told: &["shipment.cancelled", "shipment.cancel_refused"],
        ..MOMENT
    },
    Moment {
        name: "the carrier cancels the label and still hands over, before completion",
        before: &[BOOKED[0], BOOKED[1], StallMoney(Route::Void)],
        after: &[Stalled, Says(0, "hand_over"), LetGo],
        attention: Some("unexpected_shipment"),
        told: &["shipment.cancelled", "shipment.handed_over"],
        ..MOMENT
    },
    Moment {
        name: "the carrier cancels the label and still hands over, after completion",
        before: &BOOKED,
        after: &[Reach("cancelled"), Says(0, "hand_over")],
        attention: Some("unexpected_shipment"),
        told: &["shipment.cancelled"],
        ..MOMENT
    },
    Moment {
        name: "everything has shipped",
        before: &[BOOKED[0], BOOKED[1], Says(0, "hand_over"), Reach("shipped")],
        answer: Refused,
        end: ("completed", 2),
        ..MOMENT
    },
];

pub(super) const CAPTURES: &[Moment] = &[
    Moment {
        name: "one capture is in progress, the other shipment is booked",
        shipments: 2,
        before: &[
            BOOKED[0],
            BOOKED[1],
            StallMoney(Route::Capture),
            Says(0, "hand_over"),
            Stalled,
            Told("step.retrying"),
        ],
        after: &[LetGo],
        end: ("completed", 1),
        told: &["shipment.cancelled", "payment.captured", "payment.voided"],
        ..MOMENT
    },
    Moment {
        name: "the response to one capture is lost, the other shipment is booked",
        shipments: 2,
        before: &[
            BOOKED[0],
            BOOKED[1],
            LoseMoney(Route::Capture),
            Says(0, "hand_over"),
            Told("payment.unknown"),
        ],
        after: &[LetGo],
        end: ("completed", 1),
        told: &["shipment.cancelled", "payment.captured", "payment.voided"],
        ..MOMENT
    },
    Moment {
        name: "the last capture is in progress",
        before: &[
            BOOKED[0],
            BOOKED[1],
            StallMoney(Route::Capture),
            Says(0, "hand_over"),
            Stalled,
            Told("step.retrying"),
        ],
        answer: Refused,
        after: &[LetGo],
        end: ("completed", 2),
        ..MOMENT
    },
    Moment {
        name: "the response to the last capture is lost",
        before: &[
            BOOKED[0],
            BOOKED[1],
            LoseMoney(Route::Capture),
            Says(0, "hand_over"),
            Told("payment.unknown"),
        ],
        answer: Refused,
        after: &[LetGo],
        end: ("completed", 2),
        ..MOMENT
    },
];

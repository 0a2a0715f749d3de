//! The points of an order's path at which a cancel races with another message.

use super::*;

pub(super) const MOMENT: CancelPoint = CancelPoint {
    name: "",
    shipments: 1,
    before: &[],
    answer: Accepted,
    after: &[],
    end: ("cancelled", 0),
    attention: None,
    expected_events: &[],
};

pub(super) const BOOKED: [Action; 2] = [Approve, WaitForStatus("fulfilling")];

pub(super) const LABELS: &[CancelPoint] = &[
    CancelPoint {
        name: "the label is being booked",
        before: &[StallLabel(Route::Book, 0), Approve, Stalled],
        after: &[ClearFaults],
        expected_events: &["payment.voided", "stock.released"],
        ..MOMENT
    },
    CancelPoint {
        name: "the booking of the second label is being retried",
        shipments: 2,
        before: &[StallLabel(Route::Book, 1), Approve, Stalled, WaitForEvent("step.retrying")],
        after: &[ClearFaults],
        expected_events: &["payment.voided"],
        ..MOMENT
    },
    CancelPoint {
        name: "the label is booked and the response is lost",
        before: &[LoseLabel(Route::Book, 0), Approve, WaitForEvent("step.retrying")],
        after: &[ClearFaults],
        expected_events: &["payment.voided"],
        ..MOMENT
    },
    CancelPoint {
        name: "the label is booked",
        before: &BOOKED,
        expected_events: &["shipment.cancelled"],
        ..MOMENT
    },
    CancelPoint {
        name: "the first is handed over while the second is being booked",
        shipments: 2,
        before: &[
            StallLabel(Route::Book, 1),
            Approve,
            Stalled,
            WaitForEvent("step.retrying"),
            CarrierEvent(0, "hand_over"),
        ],
        after: &[ClearFaults],
        end: ("completed", 1),
        expected_events: &["shipment.cancel_refused", "shipment.cancelled"],
        ..MOMENT
    },
    CancelPoint {
        name: "another void is in progress",
        before: &[
            BOOKED[0],
            BOOKED[1],
            StallProvider(Route::Void),
            Cancel,
            Stalled,
            WaitForEvent("step.retrying"),
        ],
        after: &[ClearFaults],
        ..MOMENT
    },
    CancelPoint {
        name: "another request to the carrier is in progress",
        before: &[
            BOOKED[0],
            BOOKED[1],
            StallLabel(Route::Cancel, 0),
            Cancel,
            Stalled,
            WaitForEvent("step.retrying"),
        ],
        after: &[ClearFaults],
        expected_events: &["shipment.cancelled"],
        ..MOMENT
    },
];

pub(super) const HAND_OVERS: &[CancelPoint] = &[
    CancelPoint {
        name: "just handed over",
        before: &[BOOKED[0], BOOKED[1], CarrierEvent(0, "hand_over")],
        answer: EventuallyRejected,
        end: ("completed", 2),
        ..MOMENT
    },
    CancelPoint {
        name: "handed over during the request to the carrier",
        before: &[BOOKED[0], BOOKED[1], StallLabel(Route::Cancel, 0)],
        after: &[Stalled, CarrierEvent(0, "hand_over"), ClearFaults],
        end: ("completed", 2),
        expected_events: &["shipment.cancel_refused"],
        ..MOMENT
    },
    CancelPoint {
        name: "one of two handed over during the request to the carrier",
        shipments: 2,
        before: &[BOOKED[0], BOOKED[1], StallLabel(Route::Cancel, 1)],
        after: &[Stalled, CarrierEvent(1, "hand_over"), ClearFaults],
        end: ("completed", 1),
        expected_events: &["shipment.cancelled", "shipment.cancel_refused"],
        ..MOMENT
    },
    CancelPoint {
        name: "the carrier cancels the label and still hands over, before completion",
        before: &[BOOKED[0], BOOKED[1], StallProvider(Route::Void)],
        after: &[Stalled, CarrierEvent(0, "hand_over"), ClearFaults],
        attention: Some("unexpected_shipment"),
        expected_events: &["shipment.cancelled", "shipment.handed_over"],
        ..MOMENT
    },
    CancelPoint {
        name: "the carrier cancels the label and still hands over, after completion",
        before: &BOOKED,
        after: &[WaitForStatus("cancelled"), CarrierEvent(0, "hand_over")],
        attention: Some("unexpected_shipment"),
        expected_events: &["shipment.cancelled"],
        ..MOMENT
    },
    CancelPoint {
        name: "everything has shipped",
        before: &[BOOKED[0], BOOKED[1], CarrierEvent(0, "hand_over"), WaitForStatus("shipped")],
        answer: Refused,
        end: ("completed", 2),
        ..MOMENT
    },
];

pub(super) const CAPTURES: &[CancelPoint] = &[
    CancelPoint {
        name: "one capture is in progress, the other shipment is booked",
        shipments: 2,
        before: &[
            BOOKED[0],
            BOOKED[1],
            StallProvider(Route::Capture),
            CarrierEvent(0, "hand_over"),
            Stalled,
            WaitForEvent("step.retrying"),
        ],
        after: &[ClearFaults],
        end: ("completed", 1),
        expected_events: &["shipment.cancelled", "payment.captured", "payment.voided"],
        ..MOMENT
    },
    CancelPoint {
        name: "the response to one capture is lost, the other shipment is booked",
        shipments: 2,
        before: &[
            BOOKED[0],
            BOOKED[1],
            DropProviderResponse(Route::Capture),
            CarrierEvent(0, "hand_over"),
            WaitForEvent("payment.unknown"),
        ],
        after: &[ClearFaults],
        end: ("completed", 1),
        expected_events: &["shipment.cancelled", "payment.captured", "payment.voided"],
        ..MOMENT
    },
    CancelPoint {
        name: "the last capture is in progress",
        before: &[
            BOOKED[0],
            BOOKED[1],
            StallProvider(Route::Capture),
            CarrierEvent(0, "hand_over"),
            Stalled,
            WaitForEvent("step.retrying"),
        ],
        answer: Refused,
        after: &[ClearFaults],
        end: ("completed", 2),
        ..MOMENT
    },
    CancelPoint {
        name: "the response to the last capture is lost",
        before: &[
            BOOKED[0],
            BOOKED[1],
            DropProviderResponse(Route::Capture),
            CarrierEvent(0, "hand_over"),
            WaitForEvent("payment.unknown"),
        ],
        answer: Refused,
        after: &[ClearFaults],
        end: ("completed", 2),
        ..MOMENT
    },
];

//! A cancel races with labels, hand-overs, captures and other cancels, at each point of a table and in three ways. In
//! the end, stock and payments must agree: shipped units are captured once, all others are released. The simulators
//! stall the requests of one order (`Fault::Stall`), so that it is at the intended point when it is cancelled.

mod points;

use self::points::{BOOKED, CAPTURES, HAND_OVERS, LABELS, MOMENT};
use crate::{
    accounting::{at_provider, check_closed_order, check_stock, units_by_location, values},
    support::*,
};
use futures::{FutureExt, future::join_all};
use serde_json::{Value, json};
use std::{panic::AssertUnwindSafe, sync::Mutex};
use waybill_simulators::{Fault, Route, Rule};
use waybill_stack::{Stack, client::Reply, servers::Servers};

/// The price of one shipment of these orders; two exceed the limit of the risk rules. So every order first waits for a
/// review, and the test learns the ids of its shipments before they are booked.
const PRICE: i64 = 60_000;

#[derive(Clone, Copy, Debug, PartialEq)]
enum CancelMethod {
    Api,
    Signal,
    Engine,
}

/// The expected answer to the cancel. A signal and a workflow cancel have no response: there the timeline shows it.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Answer {
    Accepted,
    Refused,
    /// Accepted before the worker processes the hand-over, and rejected then; or rejected immediately.
    EventuallyRejected,
}

/// A step before or after the cancel. Shipments are numbered from 0.
#[derive(Clone, Copy, Debug)]
enum Action {
    Approve,
    /// Stalls this order's requests to the provider.
    StallProvider(Route),
    /// Stalls a shipment's requests to the carrier.
    StallLabel(Route, usize),
    /// The provider executes the request, and its response is lost.
    DropProviderResponse(Route),
    /// The carrier executes a shipment's request, and its response is lost.
    LoseLabel(Route, usize),
    /// Waits until a request of this order is stalled.
    Stalled,
    /// Removes all faults of this order.
    ClearFaults,
    /// The carrier reports an event of a shipment, and Waybill has processed it.
    CarrierEvent(usize, &'static str),
    WaitForStatus(&'static str),
    WaitForEvent(&'static str),
    /// Another client cancels over HTTP, and the API accepts it.
    Cancel,
}

use Action::*;
use Answer::*;

struct CancelPoint {
    name: &'static str,
    /// One shipment of two units, or two of one unit.
    shipments: usize,
    before: &'static [Action],
    answer: Answer,
    after: &'static [Action],
    /// The status in the end, and the number of captured units.
    end: (&'static str, i64),
    attention: Option<&'static str>,
    expected_events: &'static [&'static str],
}

/// A stack and the faults of all its orders.
struct TestStack {
    stack: Stack,
    faults: Mutex<Vec<Rule>>,
}

impl TestStack {
    async fn new() -> Self {
        let stack = stack().await;
        stock_two_locations(&stack.client).await;
        Self { stack, faults: Mutex::default() }
    }

    fn change_faults(&self, change: impl FnOnce(&mut Vec<Rule>)) {
        let mut faults = self.faults.lock().unwrap();
        change(&mut faults);
        // Each rule matches by order or shipment, so both simulators can have all rules.
        self.stack.carrier.set_faults(faults.clone());
        self.stack.payments.set_faults(faults.clone());
    }
}

/// One order that runs through one point of the table.
struct Case<'a> {
    stage: &'a TestStack,
    id: String,
    shipments: Vec<String>,
    what: String,
}

impl<'a> Case<'a> {
    async fn place(test_stack: &'a TestStack, moment: &CancelPoint, method: CancelMethod) -> Self {
        let lines: &[(&str, i64)] =
            if moment.shipments == 1 { &[("HERE", 2)] } else { &[("HERE", 1), ("THERE", 1)] };
        let mut order = order(lines);
        for line in order["lines"].as_array_mut().unwrap() {
            line["unit_price"] = json!(PRICE);
        }
        let id = place(&test_stack.stack.client, &order).await;
        let order = wait_for_status(&test_stack.stack.client, &id, "in_review").await;
        let mut all = order["shipments"].as_array().unwrap().clone();
        all.sort_by_key(|shipment| shipment["location"].as_str().unwrap().to_owned());
        let shipments: Vec<String> = all.iter().map(|s| s["id"].as_str().unwrap().to_owned()).collect();
        assert_eq!(shipments.len(), moment.shipments);
        Self { stage: test_stack, id, shipments, what: format!("{}, {method:?}", moment.name) }
    }

    fn ids(&self) -> impl Iterator<Item = &String> {
        self.shipments.iter().chain([&self.id])
    }

    fn add_fault(&self, route: Route, fault: Fault, about: &str) {
        let rule = Rule { route, fault, times: None, matching: Some(about.to_owned()) };
        self.stage.change_faults(|rules| rules.push(rule));
    }

    async fn act(&self, act: Action) {
        let TestStack { stack, .. } = self.stage;
        match act {
            Approve => {
                stack.client.decide(&self.id, "approve", "known").await.unwrap().success().unwrap();
            }
            StallProvider(route) => self.add_fault(route, Fault::Stall, &self.id),
            StallLabel(route, number) => self.add_fault(route, Fault::Stall, &self.shipments[number]),
            DropProviderResponse(route) => {
                self.add_fault(route, Fault::DropReply, &self.id);
                self.add_fault(Route::Read, Fault::Status { status: 503 }, &self.id);
            }
            LoseLabel(route, number) => self.add_fault(route, Fault::DropReply, &self.shipments[number]),
            Stalled => {
                wait_until(&format!("a stalled request: {}", self.what), || async {
                    let waiting = [stack.carrier.stalled(), stack.payments.stalled()].concat();
                    self.ids().any(|name| waiting.iter().any(|about| about.contains(name))).then_some(())
                })
                .await;
            }
            ClearFaults => self.stage.change_faults(|rules| {
                rules.retain(|rule| self.ids().all(|name| rule.matching.as_ref() != Some(name)));
            }),
            CarrierEvent(number, what) => self.send_carrier_event(&self.shipments[number], what).await,
            WaitForStatus(status) => {
                wait_for_status(&stack.client, &self.id, status).await;
            }
            WaitForEvent(kind) => {
                wait_for_event(&stack.client, &self.id, kind).await;
            }
            Cancel => {
                let reply = stack.client.cancel(&self.id, "the first", false).await.unwrap();
                assert_eq!(reply.text("/answer"), "accepted", "{}: {}", self.what, reply.body);
            }
        }
    }

    async fn send_carrier_event(&self, shipment: &str, what: &str) {
        let received = "select count(*) from inbox where order_id = $1::uuid and settled_at is not null
            and signal = 'shipment_event'";
        let before = count(&self.stage.stack, received, &self.id).await;
        send_carrier_event(&self.stage.stack, shipment, what).await;
        wait_until(&format!("{what} to be processed: {}", self.what), || async {
            (count(&self.stage.stack, received, &self.id).await > before).then_some(())
        })
        .await;
    }

    /// Requests a dry run, then cancels the order.
    async fn cancel(&self, method: CancelMethod, answer: Answer) {
        let client = &self.stage.stack.client;
        let planned = client.cancel(&self.id, "what if", true).await.unwrap();
        match method {
            CancelMethod::Api => {
                let got = client.cancel(&self.id, "changed my mind", false).await.unwrap();
                self.check_answer(&planned, &got, answer);
            }
            CancelMethod::Signal => self.send_to_temporal(&["signal", "--name", "cancel"]).await,
            CancelMethod::Engine => self.send_to_temporal(&["cancel"]).await,
        }
    }

    /// Retries until Temporal accepts the message: it rejects messages while the workflow is busy.
    async fn send_to_temporal(&self, messages: &[&str]) {
        let workflow = format!("order:{}", self.id);
        let messages = [&["workflow"], messages, &["-w", &workflow]].concat();
        let server = &Servers::for_tests().await.unwrap().temporal;
        wait_until(&format!("Temporal to accept {messages:?}"), || async {
            server.cli(&messages).await.ok()
        })
        .await;
    }

    fn check_answer(&self, planned: &Reply, got: &Reply, answer: Answer) {
        let what = format!("{}: {} after {}", self.what, got.body, planned.body);
        let status = got.status.as_u16();
        match answer {
            Accepted => {
                assert!([200, 202].contains(&status), "{what}");
                assert_eq!(got.text("/answer"), "accepted", "{what}");
                assert_eq!(
                    got.body["plan"], planned.body["plan"],
                    "the plan must be the one of the dry run: {what}"
                );
                let all = planned.body["order"]["shipments"].as_array().unwrap();
                let left = all.iter().filter(|shipment| shipment["status"] == "handed_over");
                let left: i64 = left.map(|shipment| shipment["amount"].as_i64().unwrap()).sum();
                assert_eq!(got.body["plan"]["void"], 2 * PRICE - left, "{what}");
            }
            Refused => {
                assert_eq!((planned.text("/answer"), status), ("refused", 409), "{what}");
                assert_eq!(got.text("/code"), "wrong_state", "{what}");
            }
            EventuallyRejected => assert!([200, 202, 409].contains(&status), "{what}"),
        }
    }

    /// Checks the final state, which is the same in each order of events.
    async fn check(&self, moment: &CancelPoint, method: CancelMethod) {
        let (stack, (status, paid)) = (&self.stage.stack, moment.end);
        if status == "completed" {
            let order = wait_for_status(&stack.client, &self.id, "shipped").await;
            let all = order["shipments"].as_array().unwrap();
            for departed in all.iter().filter(|shipment| shipment["status"] == "handed_over") {
                self.send_carrier_event(departed["id"].as_str().unwrap(), "deliver").await;
            }
        }
        wait_for_status(&stack.client, &self.id, status).await;
        if let Some(reason) = moment.attention {
            let raised = wait_for_event(&stack.client, &self.id, "attention.raised").await;
            assert_eq!(raised["data"]["reason"], reason, "{}", self.what);
        }
        let order = check_closed_order(stack, &self.id).await;
        let kinds = event_types(&stack.client, &self.id).await;
        let what = format!("{}: {order:#} {kinds:?}", self.what);
        assert_eq!(order["attention"], json!(moment.attention), "{what}");
        assert_eq!(at_provider(stack, &self.id), (0, paid * PRICE, 0, 1), "{what}");
        for kind in moment.expected_events {
            assert!(kinds.iter().any(|reported| reported == kind), "{kind} is missing: {what}");
        }
        let times = |kind: &str| kinds.iter().filter(|reported| *reported == kind).count();
        assert!(times("cancellation.requested") <= 1, "the cancel must be recorded once: {what}");
        let captured =
            order["shipments"].as_array().unwrap().iter().filter(|s| s["captured"] == true).count();
        assert_eq!(times("payment.captured"), captured, "{what}");
        // A caller over HTTP received the rejection as its response.
        let refused = times("cancellation.refused");
        // The carrier may reject the cancel instead.
        let refusals = refused + times("shipment.cancel_refused");
        match (moment.answer, method) {
            (Accepted, _) | (Refused, CancelMethod::Api) => assert_eq!(refused, 0, "{what}"),
            (Refused, _) => assert_eq!(refused, 1, "{what}"),
            (EventuallyRejected, CancelMethod::Api) => assert!(refusals <= 1, "{what}"),
            (EventuallyRejected, _) => assert_eq!(refusals, 1, "{what}"),
        }
        self.check_labels(&order);
    }

    /// The carrier does not ship a cancelled shipment, unless attention was raised for it.
    fn check_labels(&self, order: &Value) {
        let ledger = self.stage.stack.carrier.snapshot();
        for shipment in order["shipments"].as_array().unwrap().iter().filter(|s| s["status"] == "cancelled") {
            let labels = values(&ledger["labels"]);
            let label = labels.into_iter().find(|label| label["reference"] == shipment["id"]);
            let left = order["attention"] == "unexpected_shipment";
            let expected = if left { "handed_over" } else { "cancelled" };
            assert!(label.is_none_or(|l| l["status"] == expected), "{}: {label:?}", self.what);
        }
    }
}

async fn run_case(test_stack: &TestStack, moment: &CancelPoint, method: CancelMethod) {
    let case = Case::place(test_stack, moment, method).await;
    for act in moment.before {
        case.act(*act).await;
    }
    case.cancel(method, moment.answer).await;
    for act in moment.after {
        case.act(*act).await;
    }
    case.check(moment, method).await;
}

async fn run_cases(moments: &[CancelPoint]) {
    let test_stack = TestStack::new().await;
    let before = units_by_location(&test_stack.stack).await;
    let ways = [CancelMethod::Api, CancelMethod::Signal, CancelMethod::Engine];
    let cases = moments.iter().flat_map(|moment| ways.map(|method| (moment, method)));
    // A failed case does not hide the results of the others.
    let done = join_all(cases.map(|(moment, method)| {
        let case = AssertUnwindSafe(run_case(&test_stack, moment, method)).catch_unwind();
        case.map(move |done| done.is_err().then(|| format!("{}, {method:?}", moment.name)))
    }));
    let failed: Vec<String> = done.await.into_iter().flatten().collect();
    assert!(failed.is_empty(), "{failed:#?}");
    check_stock(&test_stack.stack, &before).await;
    test_stack.stack.stop().await;
}

#[tokio::test]
async fn cancel_during_booking_keeps_ledger_consistent() {
    run_cases(LABELS).await;
}

#[tokio::test]
async fn cancel_during_handover_keeps_ledger_consistent() {
    run_cases(HAND_OVERS).await;
}

#[tokio::test]
async fn cancel_during_capture_keeps_ledger_consistent() {
    run_cases(CAPTURES).await;
}

#[tokio::test]
async fn cancel_and_handover_in_one_task_agree() {
    let test_stack = TestStack::new().await;
    let before = units_by_location(&test_stack.stack).await;
    let moment =
        CancelPoint { name: "in one task", answer: EventuallyRejected, end: ("completed", 2), ..MOMENT };
    let ways = [
        (CancelMethod::Signal, true),
        (CancelMethod::Engine, true),
        (CancelMethod::Signal, false),
        (CancelMethod::Engine, false),
    ];
    let cases = ways.map(|(method, _)| Case::place(&test_stack, &moment, method));
    let cases = join_all(cases).await;
    for case in &cases {
        case.act(BOOKED[0]).await;
        case.act(BOOKED[1]).await;
    }
    // The worker is suspended until both messages have been sent, in either order.
    test_stack.stack.workers[0].suspend(true).unwrap();
    // Concurrently: the API first sends each carrier event as an update, which the suspended worker does not receive.
    join_all(cases.iter().zip(ways).map(|(case, (method, cancel_first))| async move {
        if cancel_first {
            case.cancel(method, moment.answer).await;
        }
        case.act(CarrierEvent(0, "hand_over")).await;
        if !cancel_first {
            case.cancel(method, moment.answer).await;
        }
    }))
    .await;
    test_stack.stack.workers[0].suspend(false).unwrap();
    for (case, (method, _)) in cases.iter().zip(ways) {
        case.check(&moment, method).await;
    }
    check_stock(&test_stack.stack, &before).await;
    test_stack.stack.stop().await;
}

#[tokio::test]
async fn concurrent_cancels_are_one() {
    let test_stack = TestStack::new().await;
    let before = units_by_location(&test_stack.stack).await;
    let moment = CancelPoint { name: "concurrent cancels", before: &BOOKED, ..MOMENT };
    let server = &Servers::for_tests().await.unwrap().temporal;
    join_all((0..4).map(|_| async {
        let case = Case::place(&test_stack, &moment, CancelMethod::Api).await;
        for act in moment.before {
            case.act(*act).await;
        }
        let workflow = format!("order:{}", case.id);
        let (signal, cancel) = (
            ["workflow", "signal", "--name", "cancel", "-w", &workflow],
            ["workflow", "cancel", "-w", &workflow],
        );
        // Temporal rejects messages after the workflow has completed.
        let by_http = || case.cancel(CancelMethod::Api, EventuallyRejected);
        let _ = tokio::join!(server.cli(&signal), by_http(), server.cli(&cancel), by_http());
        case.check(&moment, CancelMethod::Api).await;
    }))
    .await;
    check_stock(&test_stack.stack, &before).await;
    test_stack.stack.stop().await;
}

//! The statements that record payment operations before and after each request to the provider: with concurrent
//! writers, for compensated orders, and for successive authorizations.

use crate::support::wait_until;
use std::future::Future;
use uuid::Uuid;
use waybill_domain::{
    ids::{OrderId, ShipmentId},
    money::Amount,
};
use waybill_stack::servers::Servers;
use waybill_store::{
    PgPool,
    payments::{self, OperationKind, OperationResult, OperationState},
};

/// An order of 10.00 with its payment operations.
struct Ledger {
    pool: PgPool,
    order: OrderId,
}

impl Ledger {
    async fn new(database: &str) -> Self {
        let servers = Servers::for_tests().await.unwrap();
        let url = servers.postgres.create_database(database).await.unwrap();
        let pool = waybill_store::connect(&url, 4).unwrap();
        waybill_store::migrate(&pool).await.unwrap();
        let order = OrderId(Uuid::now_v7());
        let placed = "insert into orders (id, merchant_id, customer_id, currency, lines, subtotal, shipping_fee, tax, total,
              payment_method, shipping_address, shortage_policy, metadata, status, payment_status, version)
            values ($1, $1, 'cus_1', 'EUR', '[]', 1000, 0, 0, 1000, 'pm_card_visa', '{}', 'reject', '{}', 'authorizing',
              'pending', 1)";
        sqlx::query(placed).bind(order.0).execute(&pool).await.unwrap();
        Self { pool, order }
    }

    /// The number of the order's payment operations.
    async fn rows(&self) -> i64 {
        let rows = "select count(*) from payment_operations where order_id = $1";
        sqlx::query_scalar(rows).bind(self.order.0).fetch_one(&self.pool).await.unwrap()
    }

    async fn begin(
        &self,
        kind: OperationKind,
        minor: i64,
        provider_ref: Option<&str>,
    ) -> payments::PaymentOperation {
        payments::begin_operation(&self.pool, self.order, kind, amount(minor), provider_ref).await.unwrap()
    }

    async fn begin_hold(&self, generation: u32) -> payments::AuthorizationAttempt {
        payments::begin_authorization(&self.pool, self.order, generation, amount(1_000))
            .await
            .unwrap()
            .unwrap()
    }

    async fn begin_capture(&self, shipment: ShipmentId, minor: i64) -> payments::CaptureAttempt {
        payments::begin_capture(&self.pool, self.order, shipment, amount(minor)).await.unwrap()
    }

    async fn succeed(&self, kind: OperationKind, provider_ref: &str) -> payments::PaymentOperation {
        let ending = OperationResult::of(&OperationState::Succeeded, Some(provider_ref));
        payments::finish_operation(&self.pool, self.order, kind, ending).await.unwrap()
    }

    async fn hold(&self, generation: u32, provider_ref: &str) {
        self.begin_hold(generation).await;
        self.succeed(OperationKind::Authorize(generation), provider_ref).await;
    }

    /// Waits until a statement is blocked by another transaction's row.
    async fn is_waiting(&self) {
        let waiting = "select count(*) from pg_stat_activity
            where datname = current_database() and wait_event_type = 'Lock'";
        wait_until("the statement to block", || async {
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&self.pool).await.unwrap();
            (waiting == 1).then_some(())
        })
        .await;
    }

    /// The result of beginning an operation while a concurrent transaction inserts the same one with an amount of 7.00.
    async fn run_concurrently<T>(&self, kind: OperationKind, begin: impl Future<Output = T>) -> T {
        let mut other = self.pool.begin().await.unwrap();
        let row = "insert into payment_operations (key, order_id, kind, amount, state) values ($1, $2, $3, 700, 'pending')";
        let row = sqlx::query(row).bind(kind.key(self.order)).bind(self.order.0).bind(kind.as_str());
        row.execute(&mut *other).await.unwrap();
        let commit = async {
            self.is_waiting().await;
            other.commit().await.unwrap();
        };
        tokio::join!(begin, commit).0
    }
}

fn amount(minor: i64) -> Amount {
    Amount::new(minor).unwrap()
}

#[tokio::test]
async fn concurrent_begin_yields_one_operation() {
    let ledger = Ledger::new("ledger_meanwhile").await;
    let shipment = ShipmentId(Uuid::now_v7());
    let rest = ledger
        .run_concurrently(
            OperationKind::VoidRemainder(1),
            ledger.begin(OperationKind::VoidRemainder(1), 500, None),
        )
        .await;
    let hold =
        ledger.run_concurrently(OperationKind::Authorize(1), ledger.begin_hold(1)).await.operation.unwrap();
    let capture =
        ledger.run_concurrently(OperationKind::Capture(shipment), ledger.begin_capture(shipment, 500)).await;
    for (what, begun) in [("rest", rest.amount), ("hold", hold.amount), ("capture", capture.amount)] {
        assert_eq!(begun, amount(700), "{what}: the first writer wins");
    }
    assert_eq!(ledger.rows().await, 3);
}

#[tokio::test]
async fn operation_begins_once_and_keeps_first_outcome() {
    let ledger = Ledger::new("ledger_once").await;
    let started = ledger.begin_hold(1).await;
    assert_eq!(
        (started.terms.currency.code(), started.terms.payment_method.as_str()),
        ("EUR", "pm_card_visa")
    );
    assert_eq!(started.operation.unwrap().state, OperationState::Pending);
    assert_eq!(ledger.succeed(OperationKind::Authorize(1), "pi_1").await.state, OperationState::Succeeded);
    let declined = OperationState::Declined("no".into());
    let late = OperationResult::of(&declined, Some("pi_2"));
    let first_outcome =
        payments::finish_operation(&ledger.pool, ledger.order, OperationKind::Authorize(1), late)
            .await
            .unwrap();
    let again = ledger.begin_hold(1).await.operation.unwrap();
    for operation in [first_outcome, again] {
        assert_eq!(
            (operation.state, operation.provider_ref.as_deref()),
            (OperationState::Succeeded, Some("pi_1"))
        );
    }
    assert_eq!(ledger.begin(OperationKind::VoidRemainder(1), 300, Some("pi_1")).await.amount, amount(300));
    assert_eq!(ledger.begin(OperationKind::VoidRemainder(1), 400, None).await.amount, amount(300));
    assert_eq!(ledger.rows().await, 2);
    let nobodys =
        payments::begin_authorization(&ledger.pool, OrderId(Uuid::now_v7()), 1, amount(1)).await.unwrap();
    assert!(nobodys.is_none(), "an unknown order has no operation");
}

#[tokio::test]
async fn voided_order_begins_no_authorization() {
    let ledger = Ledger::new("ledger_undone").await;
    // The first authorization was begun and its outcome is unknown; the second was not begun.
    ledger.begin_hold(1).await;
    ledger.begin(OperationKind::Void, 0, None).await;
    for generation in [1, 2] {
        assert!(ledger.begin_hold(generation).await.operation.is_none(), "authorization {generation}");
    }
    assert_eq!(ledger.rows().await, 2, "no operation may be added");
}

#[tokio::test]
async fn authorization_racing_a_void_is_not_requested() {
    let ledger = Ledger::new("ledger_race").await;
    // The authorization's statement starts before the void is recorded, and is blocked.
    let mut blocker = ledger.pool.begin().await.unwrap();
    let row = "insert into payment_operations (key, order_id, kind, amount, state) values ($1, $2, 'authorize', 700, 'pending')";
    let row = sqlx::query(row).bind(OperationKind::Authorize(1).key(ledger.order)).bind(ledger.order.0);
    row.execute(&mut *blocker).await.unwrap();
    let undo = async {
        ledger.is_waiting().await;
        ledger.begin(OperationKind::Void, 0, None).await;
        assert!(
            payments::find_authorizations(&ledger.pool, ledger.order).await.unwrap().is_empty(),
            "the void sees no authorization"
        );
        blocker.rollback().await.unwrap();
    };
    let (started, ()) = tokio::join!(ledger.begin_hold(1), undo);
    assert!(started.operation.is_none(), "{started:?}");
}

#[tokio::test]
async fn capture_uses_the_active_authorization() {
    let ledger = Ledger::new("ledger_capture").await;
    let [first, second] = [ShipmentId(Uuid::now_v7()), ShipmentId(Uuid::now_v7())];
    let none = ledger.begin_capture(first, 400).await;
    assert!(none.authorization.is_none() && !none.was_authorized, "{none:?}");

    ledger.hold(1, "pi_1").await;
    assert_eq!(ledger.begin_capture(first, 400).await.authorization.unwrap().captured, amount(0));
    ledger.succeed(OperationKind::Capture(first), "pi_1").await;
    let started = ledger.begin_capture(second, 600).await;
    let current_authorization = started.authorization.unwrap();
    assert_eq!((current_authorization.generation, current_authorization.captured), (1, amount(400)));

    // The first authorization expires before the second capture, which moves to the next one with the same amount.
    // Nothing has been captured on that one.
    ledger.begin(OperationKind::VoidRemainder(1), 600, Some("pi_1")).await;
    ledger.succeed(OperationKind::VoidRemainder(1), "pi_1").await;
    let lapsed = ledger.begin_capture(second, 600).await;
    assert!(lapsed.authorization.is_none() && lapsed.was_authorized, "{lapsed:?}");
    ledger.hold(2, "pi_2").await;
    let started = ledger.begin_capture(second, 550).await;
    assert_eq!((started.state, started.amount), (OperationState::Pending, amount(600)));
    let current_authorization = started.authorization.unwrap();
    assert_eq!((current_authorization.generation, current_authorization.provider_ref.as_str()), (2, "pi_2"));
    assert_eq!((current_authorization.amount, current_authorization.captured), (amount(1_000), amount(0)));
    let written = payments::find_operation(&ledger.pool, ledger.order, OperationKind::Capture(second))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(written.provider_ref.as_deref(), Some("pi_2"), "recorded before the request");

    // A completed capture stays with its authorization.
    let done = ledger.begin_capture(first, 400).await;
    assert_eq!((done.state, done.amount), (OperationState::Succeeded, amount(400)));
    let done = payments::find_operation(&ledger.pool, ledger.order, OperationKind::Capture(first))
        .await
        .unwrap()
        .unwrap();
    assert_eq!(done.provider_ref.as_deref(), Some("pi_1"));
}

//! The load generator: the operations that it sends, and whether it detects inconsistent stock totals.

use crate::support::*;
use std::time::Duration;
use waybill_load::{
    Load,
    live::LiveStats,
    mix::Op,
    open_loop::{Arrivals, Plan},
    run,
};
use waybill_simulators::AutoProgress;
use waybill_stack::Stack;

fn load() -> Load {
    let duration = Duration::from_secs(4);
    let arrivals = Arrivals::Poisson;
    Load {
        plan: Plan { rate_per_s: 20.0, duration, in_flight_max: 100, arrivals, seed: 3 },
        mix: "place=3,wait=1,read=3,list=1,again=2,cancel=2".parse().unwrap(),
        skus: 4,
        settle_max: WAIT_TIMEOUT,
    }
}

/// A stack whose carrier hands over some orders while others are cancelled.
async fn busy_stack() -> Stack {
    let soon = Duration::from_secs(1);
    builder().await.auto(AutoProgress { hand_over_after: soon, deliver_after: soon }).start().await.unwrap()
}

#[tokio::test]
async fn small_load_runs_every_operation_and_reconciles() {
    let stack = busy_stack().await;
    let board = LiveStats::default();
    let report = run(&load(), stack.client.clone(), std::future::pending(), &board, |_, _| {}).await.unwrap();
    let reported = report.lines().join("\n");
    assert!(report.is_ok(), "{reported}");
    assert_eq!(report.reconciliation.unchecked, [""; 0], "{reported}");
    assert_eq!(report.tallies.keys().copied().collect::<Vec<_>>(), Op::ALL, "{reported}");
    assert_eq!(report.all().latencies.count() + report.sent.unsent, report.sent.scheduled, "{reported}");
    let again = &report.tallies[&Op::Repeat];
    assert_eq!(report.reconciliation.repeated, again.latencies.count(), "{reported}");
    assert!(report.reconciliation.statuses.contains_key("cancelled"), "{reported}");
    let placed = [Op::Place, Op::Wait].map(|op| report.tallies[&op].latencies.count());
    assert_eq!(report.reconciliation.accepted, placed.iter().sum::<u64>(), "{reported}");
    stack.stop().await;
}

#[tokio::test]
async fn stock_changed_by_others_is_reported() {
    let stack = busy_stack().await;
    let (load, board) = (load(), LiveStats::default());
    let running = run(&load, stack.client.clone(), std::future::pending(), &board, |_, _| {});
    let spoil = async {
        wait_until("the first response", || async { (!board.tallies().is_empty()).then_some(()) }).await;
        let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
        let more = "update stock set available = available + 1 where sku = 'LOAD-1'";
        assert_eq!(sqlx::query(more).execute(&pool).await.unwrap().rows_affected(), 1);
    };
    let (report, ()) = tokio::join!(running, spoil);
    let report = report.unwrap();
    let reported = report.lines().join("\n");
    assert!(!report.is_ok() && reported.contains("Totals are inconsistent."), "{reported}");
    assert_eq!(report.reconciliation.wrong.len(), 1, "{reported}");
    assert!(
        report.reconciliation.wrong[0].starts_with("LOAD-1: available + reserved + sold was"),
        "{reported}"
    );
    stack.stop().await;
}

#[tokio::test]
async fn open_orders_are_reported_late_not_wrong() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let load = Load { mix: "place=1".parse().unwrap(), settle_max: Duration::ZERO, ..load() };
    let board = LiveStats::default();
    let report = run(&load, stack.client.clone(), std::future::pending(), &board, |_, _| {}).await.unwrap();
    let reported = report.lines().join("\n");
    assert!(!report.is_ok() && report.reconciliation.accepted > 0, "{reported}");
    assert_eq!(
        (report.reconciliation.late.len() as u64, report.reconciliation.wrong.len()),
        (report.reconciliation.accepted, 0),
        "{reported}"
    );
    assert!(reported.contains("Totals could not be checked"), "{reported}");
    stack.stop().await;
}

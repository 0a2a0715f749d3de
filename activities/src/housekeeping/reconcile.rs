//! The reconciliation compares stock with reservations, and the ledger with the payment provider's records. It reports
//! discrepancies, records refunds that were created at the provider, and repairs only one case: it voids an
//! authorization of an order that has ended.

use super::{HousekeepingSteps, refunds};
use crate::{payments::ProviderPayment, retry::StepFailure};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use temporalio_sdk::activities::ActivityContext;
use waybill_store::{
    housekeeping::drifts::{self, Drift, OrderLedger},
    payments,
};
use waybill_workflows::housekeeping::ReconcileResult;

/// How far back payments and refunds are compared, in days: longer than a card authorization is valid.
const WINDOW_DAYS: i64 = 8;

pub(super) async fn reconcile(
    steps: &HousekeepingSteps,
    ctx: &ActivityContext,
) -> Result<ReconcileResult, StepFailure> {
    let mut result = ReconcileResult::default();
    for drift in drifts::find_stock_drifts(&steps.pool).await? {
        report_drift(steps, &mut result, &drift).await?;
    }
    let since = Timestamp::now() - SignedDuration::from_hours(24 * WINDOW_DAYS);
    let mut after: Option<String> = None;
    loop {
        // If the heartbeat fails, the activity times out.
        let _ = ctx.record_heartbeat(result.clone()).await;
        let page = steps.provider.list_payments_since(since, after.as_deref()).await?;
        let orders: Vec<_> = page.payments.iter().filter_map(|payment| payment.order_id).collect();
        // Read after the provider's payments, so that the ledger has the operations that they include.
        let ledgers = drifts::find_order_ledgers(&steps.pool, &orders, steps.sweep_age).await?;
        for payment in &page.payments {
            // A payment without one of our orders belongs to another system that uses the same account.
            let Some(ledger) = payment.order_id.and_then(|order| ledgers.get(&order)) else { continue };
            result.checked += 1;
            compare(steps, &mut result, payment, ledger).await?;
        }
        after = page.payments.last().map(|payment| payment.provider_ref.clone());
        if !page.has_more || after.is_none() {
            break;
        }
    }
    refunds::record_refunds_since(steps, ctx, &mut result, since).await?;
    Ok(result)
}

async fn compare(
    steps: &HousekeepingSteps,
    result: &mut ReconcileResult,
    payment: &ProviderPayment,
    ledger: &OrderLedger,
) -> Result<(), StepFailure> {
    if !ledger.is_settled {
        return Ok(());
    }
    let known = ledger.captured.get(&payment.provider_ref);
    let drift = |kind| Drift {
        kind,
        subject: payment.provider_ref.clone(),
        order: payment.order_id,
        detail: json!({
            "payment": payment.provider_ref, "provider_capturable": payment.capturable,
            "provider_captured": payment.captured, "ledger_captured": known,
        }),
    };
    match known {
        None if payment.capturable > 0 || payment.captured > 0 => {
            report_drift(steps, result, &drift("unknown_payment")).await?;
        }
        Some(captured) if *captured != payment.captured => {
            report_drift(steps, result, &drift("captured_differs")).await?;
        }
        _ => {}
    }
    if let (true, true, Some(order)) = (payment.capturable > 0, ledger.status.is_terminal(), payment.order_id)
    {
        let drift = drift("held_after_end");
        report_drift(steps, result, &drift).await?;
        // An order that has ended captures nothing more, so the void is safe.
        let key = format!("reconcile:{}:void", payment.provider_ref);
        steps.provider.void(&key, &payment.provider_ref).await?;
        payments::finish_release(&steps.pool, order, &payment.provider_ref).await?;
        if drifts::record_repair(&steps.pool, &drift, "voided").await? {
            result.repaired += 1;
        }
    }
    Ok(())
}

pub(super) async fn report_drift(
    steps: &HousekeepingSteps,
    result: &mut ReconcileResult,
    drift: &Drift,
) -> Result<(), StepFailure> {
    if drifts::record_drift(&steps.pool, drift).await? {
        result.drifts += 1;
        steps.metrics.drifts.with_label_values(&[drift.kind]).inc();
        tracing::warn!(kind = drift.kind, subject = drift.subject, detail = %drift.detail, "reconciliation found a discrepancy");
    }
    Ok(())
}

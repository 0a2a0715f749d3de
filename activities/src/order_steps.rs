//! The order's activities by name. They are thin: [`crate::steps`] does the work.

use crate::{context::OrderSteps, retry::StepFailure, steps};
use std::sync::Arc;
use temporalio_macros::activities;
use temporalio_sdk::activities::{ActivityContext, ActivityError};
use waybill_domain::shortfall::Replacement;
use waybill_workflows::{activities as definitions, payloads::*};

#[activities]
impl OrderSteps {
    #[activity(definition = definitions::Reserve)]
    pub async fn reserve(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: OrderStepInput,
    ) -> Result<Reservation, ActivityError> {
        self.attempt("reserve", input.order_id, &ctx, || steps::stock::reserve(&self, &input)).await
    }

    #[activity(definition = definitions::ReleaseStock)]
    pub async fn release_stock(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReleaseInput,
    ) -> Result<(), ActivityError> {
        self.attempt("release_stock", input.order_id, &ctx, || steps::stock::release_stock(&self, &input))
            .await
    }

    #[activity(definition = definitions::ReplaceShipment)]
    pub async fn replace_shipment(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ReplaceInput,
    ) -> Result<(), ActivityError> {
        self.attempt("replace_shipment", input.order_id, &ctx, || {
            steps::stock::replace_shipment(&self, &input)
        })
        .await
    }

    #[activity(definition = definitions::SettleShortfall)]
    pub async fn settle_shortfall(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ShortfallInput,
    ) -> Result<Replacement, ActivityError> {
        let settle = || async {
            steps::stock::settle_shortfall(&self, &input).await.map_err(StepFailure::retry_permanent)
        };
        let name = if input.dry_run { "plan_shortfall" } else { "settle_shortfall" };
        self.attempt(name, input.order_id, &ctx, settle).await
    }

    #[activity(definition = definitions::HandOver)]
    pub async fn hand_over(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ShipmentRef,
    ) -> Result<(), ActivityError> {
        self.attempt("hand_over", input.order_id, &ctx, || steps::stock::hand_over(&self, &input)).await
    }

    #[activity(definition = definitions::Authorize)]
    pub async fn authorize(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: AuthorizeInput,
    ) -> Result<Authorization, ActivityError> {
        self.attempt("authorize", input.order_id, &ctx, || steps::authorization::authorize(&self, &input))
            .await
    }

    #[activity(definition = definitions::VoidAuthorization)]
    pub async fn void_authorization(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: OrderRef,
    ) -> Result<VoidResult, ActivityError> {
        self.attempt("void_authorization", input.order_id, &ctx, || steps::authorization::void(&self, &input))
            .await
    }

    #[activity(definition = definitions::Capture)]
    pub async fn capture(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: CaptureInput,
    ) -> Result<(), ActivityError> {
        self.attempt("capture", input.order_id, &ctx, || steps::capture::capture(&self, &input)).await
    }

    #[activity(definition = definitions::Screen)]
    pub async fn screen(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: OrderRef,
    ) -> Result<Screening, ActivityError> {
        self.attempt("screen", input.order_id, &ctx, || steps::screening::screen(&self, &input)).await
    }

    #[activity(definition = definitions::Book)]
    pub async fn book(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ShipmentRef,
    ) -> Result<Label, ActivityError> {
        self.attempt("book", input.order_id, &ctx, || steps::labels::book(&self, &input)).await
    }

    #[activity(definition = definitions::CancelLabel)]
    pub async fn cancel_label(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ShipmentRef,
    ) -> Result<LabelCancellation, ActivityError> {
        self.attempt("cancel_label", input.order_id, &ctx, || steps::labels::cancel_label(&self, &input))
            .await
    }

    #[activity(definition = definitions::OpenReturn)]
    pub async fn open_return(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: ShipmentRef,
    ) -> Result<(), ActivityError> {
        let expect_back = || async {
            steps::stock::open_return_of_shipment(&self, &input).await.map_err(StepFailure::retry_permanent)
        };
        self.attempt("expect_back", input.order_id, &ctx, expect_back).await
    }

    #[activity(definition = definitions::RecordOperation)]
    pub async fn record_operation(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: OperatorCommandRecord,
    ) -> Result<(), ActivityError> {
        let run = ctx.info().workflow_run_id.clone().unwrap_or_default();
        let record = || async {
            steps::operator::record_action(&self, &input, &run).await.map_err(StepFailure::retry_permanent)
        };
        self.attempt("record_operation", input.order_id, &ctx, record).await
    }

    #[activity(definition = definitions::Checkpoint)]
    pub async fn checkpoint(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: OrderRef,
    ) -> Result<(), ActivityError> {
        self.attempt("record", input.order_id, &ctx, || async { Ok(()) }).await
    }

    #[activity(definition = definitions::LoadRecoveryState)]
    pub async fn load_recovery_state(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: OrderStepInput,
    ) -> Result<RecoveryState, ActivityError> {
        self.attempt("inherit", input.order_id, &ctx, || {
            steps::read_model::load_recovery_state(&self, &input)
        })
        .await
    }

    #[activity(definition = definitions::Project)]
    pub async fn project(
        self: Arc<Self>,
        ctx: ActivityContext,
        input: Projection,
    ) -> Result<Projected, ActivityError> {
        let project = || async {
            steps::read_model::project(&self, &input).await.map_err(StepFailure::retry_permanent)
        };
        self.attempt("project", input.order_id, &ctx, project).await
    }
}

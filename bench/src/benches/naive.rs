//! The same order with local-first steps and batched statements, against remote activities and single statements. The
//! switches (`WAYBILL_STEPS`, `WAYBILL_GROUPING`) exist for this and for debugging.

use super::flow::{Flow, Goal, IN_FLIGHT};
use crate::{
    environment::Environment,
    report::{Comparison, Report},
};
use anyhow::Result;
use serde_json::json;

pub async fn run(world: &Environment) -> Result<Report> {
    let (count, naive) = world.size.pick((20, 20), (800, 400));
    let ours = Flow::of(world, world.stack().start().await?).await?;
    let plain = world.stack().env("WAYBILL_STEPS", "remote").env("WAYBILL_GROUPING", "off");
    let plain = Flow::of(world, plain.start().await?).await?;
    ours.warm_up(count / 4, Goal::Booked).await?;
    plain.warm_up(naive / 4, Goal::Booked).await?;
    let rounds = world
        .rounds(
            "naive",
            async |_| ours.run(count, Goal::Booked).await,
            async |_| plain.run(naive, Goal::Booked).await,
        )
        .await?;
    ours.stack.stop().await;
    plain.stack.stop().await;
    let what = ["steps local first, statements grouped", "each step a remote activity, each statement alone"];
    let settings = json!({ "in_flight": IN_FLIGHT, "orders_per_round": { "a": count, "b": naive } });
    Ok(world.report("naive", Comparison::of_rates(what, &rounds), settings))
}

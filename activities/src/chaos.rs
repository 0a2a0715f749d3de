//! Fault injection for tests and staging. `WAYBILL_CHAOS` is a comma-separated list of: `repeat` (every step runs
//! twice, and must return the same result); `refuse:STEP` (the step runs, and is then reported as failed permanently);
//! `lose:STEP:N` (the first N attempts per order run, and are then reported with an unknown outcome).

use crate::retry::StepFailure;
use serde::Serialize;
use std::{
    collections::BTreeMap,
    future::Future,
    str::FromStr,
    sync::{Arc, Mutex, PoisonError},
};
use waybill_domain::ids::OrderId;

/// The configured faults.
#[derive(Debug, Clone, Default)]
pub struct Chaos {
    repeat: bool,
    reject_steps: Vec<String>,
    lose_attempts: BTreeMap<String, u32>,
    lost_so_far: Arc<Mutex<BTreeMap<(String, OrderId), u32>>>,
}

impl Chaos {
    pub(crate) async fn inject<T, F>(
        &self,
        name: &str,
        order: OrderId,
        step: impl Fn() -> F,
    ) -> Result<T, StepFailure>
    where
        T: Serialize,
        F: Future<Output = Result<T, StepFailure>>,
    {
        let output = step().await?;
        if self.repeat {
            let again = step().await?;
            let same = serde_json::to_value(&output).ok() == serde_json::to_value(&again).ok();
            if !same {
                return Err(StepFailure::Permanent(format!("{name} answered differently when repeated")));
            }
        }
        if self.reject_steps.iter().any(|rejected| rejected == name) {
            return Err(StepFailure::Permanent("chaos".into()));
        }
        if let Some(times) = self.lose_attempts.get(name) {
            let mut lost = self.lost_so_far.lock().unwrap_or_else(PoisonError::into_inner);
            let so_far = lost.entry((name.to_owned(), order)).or_default();
            if *so_far < *times {
                *so_far += 1;
                return Err(StepFailure::UnknownOutcome("chaos", "dropped response".into()));
            }
        }
        Ok(output)
    }
}

impl FromStr for Chaos {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        let mut chaos = Self::default();
        for fault in text.split(',').filter(|f| !f.is_empty()) {
            match fault.split(':').collect::<Vec<_>>()[..] {
                ["repeat"] => chaos.repeat = true,
                ["refuse", step] => chaos.reject_steps.push(step.to_owned()),
                ["lose", step, times] => {
                    let times = times.parse().map_err(|e| format!("{fault}: {e}"))?;
                    chaos.lose_attempts.insert(step.to_owned(), times);
                }
                _ => return Err(format!("unknown fault {fault:?}; use repeat, refuse:STEP or lose:STEP:N")),
            }
        }
        Ok(chaos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lost_attempts_run_and_are_counted_per_order() {
        let chaos: Chaos = "lose:capture:1".parse().unwrap();
        let done = std::sync::atomic::AtomicU32::new(0);
        let step = || async {
            done.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
            Ok(())
        };
        let order = OrderId(uuid::Uuid::nil());
        assert!(chaos.inject("capture", order, step).await.is_err());
        assert!(chaos.inject("capture", order, step).await.is_ok());
        assert_eq!(done.load(std::sync::atomic::Ordering::SeqCst), 2);
    }

    #[test]
    fn unknown_fault_is_rejected_by_name() {
        assert!("explode".parse::<Chaos>().unwrap_err().contains("explode"));
    }
}

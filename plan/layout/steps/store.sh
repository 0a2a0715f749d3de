set -eu
S=store/src
mkdir -p $S/{orders,payments,stock,refunds,returns,shipments,inbox,keys,housekeeping,postgres}
git mv $S/orders.rs        $S/orders/mod.rs
git mv $S/acceptance.rs    $S/orders/acceptance.rs
git mv $S/projection.rs    $S/orders/projection.rs
git mv $S/starts.rs        $S/orders/starts.rs
git mv $S/risk.rs          $S/orders/risk.rs
git mv $S/concerns.rs      $S/orders/concerns.rs
git mv $S/operations.rs    $S/orders/operations.rs
git mv $S/payments.rs      $S/payments/mod.rs
git mv $S/belief.rs        $S/payments/belief.rs
git mv $S/held.rs          $S/payments/held.rs
git mv $S/refunds.rs       $S/refunds/mod.rs
git mv $S/disputes.rs      $S/refunds/disputes.rs
git mv $S/returns.rs       $S/returns/mod.rs
git mv $S/stock.rs         $S/stock/mod.rs
git mv $S/reservations.rs  $S/stock/reservations.rs
git mv $S/reservations     $S/stock/reservations
git mv $S/shortfalls.rs    $S/stock/shortfalls.rs
git mv $S/shortfalls       $S/stock/shortfalls
git mv $S/shipments.rs     $S/shipments/mod.rs
git mv $S/late.rs          $S/shipments/late.rs
git mv $S/inbox.rs         $S/inbox/mod.rs
git mv $S/idempotency.rs   $S/inbox/idempotency.rs
git mv $S/keys.rs          $S/keys/mod.rs
git mv $S/housekeeping.rs  $S/housekeeping/mod.rs
git mv $S/drifts.rs        $S/housekeeping/drifts.rs
git mv $S/group.rs         $S/postgres/group.rs
git mv $S/kept.rs          $S/postgres/kept.rs
git mv $S/notify.rs        $S/postgres/notify.rs

//! A page reads only its own rows, regardless of the number of earlier rows, of other merchants' orders and of
//! Postgres's statistics.

use crate::support::*;
use sqlx::{PgConnection, PgPool};
use uuid::Uuid;
use waybill_domain::{
    ids::{MerchantId, OrderId},
    status::OrderStatus,
};
use waybill_store::orders::{self, Filter};

/// Orders of the large merchant; two of three do not match a filter.
const ORDERS: i64 = 9_000;
/// Orders of a page.
const PAGE: u16 = 5;
/// Orders that a page may read: its own, and a few that its filters exclude.
const LOOKED_AT_MAX: i64 = 2 * PAGE as i64;

/// Two merchants: a small one whose few orders are the oldest, and a large one whose oldest third is completed and
/// whose other orders are open. Rare values are in the oldest orders.
async fn fill(pool: &PgPool, model: &str) -> (MerchantId, MerchantId) {
    let (large, small) = (Uuid::from_u128(1), Uuid::from_u128(2));
    let columns: Vec<String> = sqlx::query_scalar(
        "select column_name::text from information_schema.columns
         where table_name = 'orders' and table_schema = 'public' order by ordinal_position",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    let value = |column: &String| match column.as_str() {
        "id" => "overlay(model.id::text placing to_char(n, 'FM0000000000') from 25)::uuid".to_owned(),
        "merchant_id" => format!("case when n <= {PAGE} then '{small}'::uuid else '{large}' end"),
        "customer_id" => "case when n between 6 and 20 then 'cus_rare' else 'cus_usual' end".to_owned(),
        "reference" => "case when n between 6 and 20 then 'R-rare' else 'R-' || n end".to_owned(),
        "status" => format!("case when n <= {ORDERS} / 3 then 'completed' else 'received' end"),
        "attention" => "case when n between 6 and 20 then 'step_failing' end".to_owned(),
        // With a start time, the dispatcher skips these orders.
        "workflow_started_at" => "now()".to_owned(),
        other => format!("model.{other}"),
    };
    let values: Vec<String> = columns.iter().map(value).collect();
    let fill = format!(
        "insert into orders ({}) select {} from generate_series(1, {ORDERS}) as n, orders as model
         where model.id = '{model}'",
        columns.join(", "),
        values.join(", ")
    );
    sqlx::query(sqlx::AssertSqlSafe(fill)).execute(pool).await.unwrap();
    (MerchantId(large), MerchantId(small))
}

/// Orders that this connection has read since it last reported its statistics, which it does between transactions.
async fn looked_at(tx: &mut PgConnection) -> i64 {
    let read = "select seq_tup_read + coalesce(idx_tup_fetch, 0) from pg_stat_xact_user_tables
                where relid = 'orders'::regclass";
    sqlx::query_scalar(read).fetch_one(tx).await.unwrap()
}

#[tokio::test]
async fn page_reads_only_its_own_rows() {
    let stack = builder().await.worker(false).check_invariants(false).start().await.unwrap();
    let model = place(&stack.client, &order_with(|_| {})).await;
    // A single connection, so that its cached plans are used again, as in the service.
    let pool = waybill_store::connect(&stack.database_url, 1).unwrap();
    let (large, small) = fill(&pool, &model).await;
    let any = Filter::default;
    let rare = "cus_rare".to_owned().try_into().unwrap();
    let late = "2999-01-01T00:00:00Z".parse().unwrap();
    let middle: OrderId = {
        let id = "select id from orders where merchant_id = $1 order by id offset 1000 limit 1";
        OrderId(sqlx::query_scalar(id).bind(large.0).fetch_one(&pool).await.unwrap())
    };
    let lists: [(&str, MerchantId, usize, Filter); 10] = [
        ("all", large, 5, any()),
        ("all of few", small, 5, any()),
        ("a late page", large, 5, Filter { before: Some(middle), ..any() }),
        ("completed", large, 5, Filter { status: Some(OrderStatus::Completed), ..any() }),
        (
            "a late page of completed",
            large,
            5,
            Filter { status: Some(OrderStatus::Completed), before: Some(middle), ..any() },
        ),
        ("a status of none", large, 0, Filter { status: Some(OrderStatus::Rejected), ..any() }),
        ("a customer's", large, 5, Filter { customer_id: Some(rare), ..any() }),
        ("by reference", large, 5, Filter { reference: Some("R-rare".into()), ..any() }),
        ("with attention", large, 5, Filter { attention: Some(true), ..any() }),
        ("later than all", large, 0, Filter { created_after: Some(late), ..any() }),
    ];
    for known in ["no values", "usual values"] {
        for (what, merchant, found, filter) in &lists {
            let mut tx = pool.begin().await.unwrap();
            let before = looked_at(&mut tx).await;
            let page = orders::list(&mut *tx, *merchant, filter, PAGE).await.unwrap();
            let read = looked_at(&mut tx).await - before;
            tx.rollback().await.unwrap();
            assert_eq!(page.len(), *found, "{what}");
            assert!(page.iter().all(|order| order.merchant_id == *merchant), "{what}");
            assert!(page.windows(2).all(|two| two[0].id > two[1].id), "{what}: newest first");
            assert!(read <= LOOKED_AT_MAX, "{what}, with statistics of {known}: {read} orders read");
        }
        // As if the sample of ANALYZE had contained only the large merchant's open orders.
        for column in ["merchant_id", "status", "customer_id"] {
            let one = format!("alter table orders alter {column} set (n_distinct = 1)");
            sqlx::query(sqlx::AssertSqlSafe(one)).execute(&pool).await.unwrap();
        }
        sqlx::query("analyze orders").execute(&pool).await.unwrap();
    }
    stack.stop().await;
}

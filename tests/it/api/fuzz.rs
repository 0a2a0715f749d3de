//! Fuzzes valid orders with a fixed seed: the API accepts or rejects each one, and never fails.

use crate::support::*;
use serde_json::{Value, json};

const ROUNDS: usize = 300;
const SEED: u64 = 0x005e_ed0f_0a71_1d0e;

/// Values that are known to break servers. They are bytes, since not all of them are JSON.
const HOSTILE: &[&[u8]] = &[
    b"null",
    b"true",
    b"0",
    b"-0",
    b"-1",
    b"1",
    b"1.5",
    b"1e2",
    b"1e400",
    b"-1e400",
    b"1e-400",
    b"2147483648",
    b"4294967297",
    b"9223372036854775807",
    b"9223372036854775808",
    b"-9223372036854775809",
    b"10000000000",
    b"123456789012345678901234567890123456789012345678901234567890",
    b"NaN",
    b"Infinity",
    b"0x10",
    b"01",
    b"\"\"",
    b"\" \"",
    b"\"0\"",
    b"\"EUR\"",
    b"\"eur\"",
    b"\"NL\"",
    b"\"\\u0000\"",
    b"\"a\\u0000b\"",
    b"\"\\ud800\"",
    b"\"\\udc00\\ud800\"",
    b"\"\\ud83d\\udca5\"",
    b"\"\\u202e\"",
    b"\"\\uffff\"",
    b"\"\\x\"",
    b"\"\xff\"",
    b"\"\xc0\x80\"",
    b"\"\xed\xa0\x80\"",
    b"\"\x01\"",
    b"\"\n\"",
    b"\"open",
    b"'single'",
    b"[]",
    b"{}",
    b"[[]]",
    b"[null]",
    b"[0,1,2]",
    b"{\"\":0}",
    b"{\"__proto__\":{}}",
    b"{\"$serde_json::private::RawValue\":\"1\"}",
    b"{\"$serde_json::private::Number\":\"1\"}",
    b"\"'; drop table orders; --\"",
    b"\"{{7*7}}\"",
    b"\"%00%s%n\"",
    b"\"../../etc/passwd\"",
    b"\"reject\"",
    b",",
    b":",
    b"}",
    b"]",
    b"//",
    b"",
];

/// Knuth's MMIX generator: sufficiently varied, and the same on every platform.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        usize::try_from(self.0 >> 33).unwrap() % limit
    }
}

/// A mutation of an order.
#[derive(Debug)]
enum Change {
    Remove,
    Replace,
    Rename,
    Twice,
    LongText,
}

#[tokio::test]
async fn mutated_order_is_accepted_or_rejected_never_5xx() {
    let stack = builder().await.worker(false).start().await.unwrap();
    let mut random = Random(SEED);
    let (mut accepted, mut refused) = (0, 0);
    for round in 0..ROUNDS {
        let mut spoilt = Spoilt::new(round);
        let changes = 1 + random.below(3);
        for _ in 0..changes {
            spoilt.change(&mut random);
        }
        let what = format!("round {round}, {:?}: {}", spoilt.done, String::from_utf8_lossy(&spoilt.text()));
        let reply = post_bytes(&stack.client, "/v1/orders", spoilt.text()).await;
        if reply.status.as_u16() == 201 {
            accepted += 1;
            let read = stack.client.get(reply.text("/id")).await.unwrap();
            assert_eq!(read.body, reply.body, "the response must equal the stored order: {what}");
            continue;
        }
        refused += 1;
        let pointers = check_problem(&reply, &what);
        assert!([400, 422].contains(&reply.status.as_u16()), "{what}: {}", reply.body);
        let unreadable = pointers == [""] && reply.text("/detail").contains("not JSON");
        if let ([(change, at)], false) = (&spoilt.done[..], unreadable) {
            check_pointers(change, at, &pointers, &what);
        }
    }
    println!("{accepted} accepted, {refused} refused");
    assert!(accepted > ROUNDS / 30 && refused > ROUNDS / 2, "{accepted} accepted, {refused} refused");
    let text = "select count(*) from orders where customer_id like $1";
    assert!(count(&stack, text, "%").await == accepted as i64, "only accepted orders may exist");
    stack.stop().await;
}

/// For a single mutation, every pointer leads to the mutated value, or to a value around it or in it.
fn check_pointers(change: &Change, at: &str, pointers: &[String], what: &str) {
    for pointer in pointers {
        let near = |a: &str, b: &str| a == b || a.strip_prefix(b).is_some_and(|rest| rest.starts_with('/'));
        let fits = match change {
            // After a removal the pointer is that of the next element or of the list.
            Change::Remove => near(at, pointer) && !pointer.is_empty(),
            // The pointer of the unknown or of the missing name is next to the renamed field.
            Change::Rename => pointer.rsplit_once('/').unwrap().0 == at.rsplit_once('/').unwrap().0,
            // A total above the limit is reported for the lines.
            _ => near(pointer, at) || (near(at, pointer) && !pointer.is_empty()) || pointer == "/lines",
        };
        assert!(fits, "{pointer} does not belong to {at}: {what}");
    }
}

/// An order with slots for bytes that serde cannot write.
struct Spoilt {
    order: Value,
    bytes: Vec<Vec<u8>>,
    done: Vec<(Change, String)>,
}

impl Spoilt {
    fn new(round: usize) -> Self {
        let order = json!({
            "customer_id": format!("cus_{round}"), "currency": "EUR", "reference": "W-1001",
            "lines": [{"sku": "SHOE-42-BLK", "quantity": 2, "unit_price": 4999},
                {"sku": "CARE-KIT", "quantity": 1, "unit_price": 1450}],
            "shipping_fee": 500, "tax": 1900, "payment": {"method": "pm_card_visa"},
            "shipping_address": {"name": "Zoë Ångström", "line1": "B 1", "line2": "C", "city": "D",
                "postal_code": "1", "region": "E", "country": "NL"},
            "shortage_policy": "ask_customer", "metadata": {"channel": "web", "note": "💥"},
        });
        Self { order, bytes: Vec::new(), done: Vec::new() }
    }

    fn change(&mut self, random: &mut Random) {
        let mut all = Vec::new();
        pointers(&self.order, "", &mut all);
        if all.is_empty() {
            return;
        }
        let at = all[random.below(all.len())].clone();
        let (parent, field) = at.rsplit_once('/').unwrap();
        let (parent, field) = (self.order.pointer_mut(parent).unwrap(), field.to_owned());
        let slot = json!(format!("@@{}@@", self.bytes.len()));
        let hostile = HOSTILE[random.below(HOSTILE.len())].to_vec();
        let change = match (parent, random.below(8)) {
            (Value::Object(fields), 0) => {
                fields.remove(&field);
                Change::Remove
            }
            (Value::Array(items), 0) => {
                items.remove(field.parse().unwrap());
                Change::Remove
            }
            (Value::Object(fields), 1) => {
                let value = fields.remove(&field).unwrap();
                fields.insert(format!("{field}_"), value);
                Change::Rename
            }
            // Two members with the same name: `@` sorts before every name here, `~` after it.
            (Value::Object(fields), n @ (2 | 3)) => {
                let before_or_after = if n == 2 { "@@twice@@" } else { "~~twice~~" };
                fields.insert(format!("{before_or_after}{field}"), slot);
                self.bytes.push(hostile);
                Change::Twice
            }
            (parent, n) => {
                let long = ["x", "💥", "\u{7f}"][random.below(3)].repeat([64, 65, 201, 501][random.below(4)]);
                let change = if n == 4 { Change::LongText } else { Change::Replace };
                let new = if n == 4 { json!(long) } else { slot };
                match parent {
                    Value::Array(items) => items[field.parse::<usize>().unwrap()] = new,
                    parent => parent[field] = new,
                }
                if n != 4 {
                    self.bytes.push(hostile);
                }
                change
            }
        };
        self.done.push((change, at));
    }

    fn text(&self) -> Vec<u8> {
        let text = self.order.to_string().replace("\"@@twice@@", "\"").replace("\"~~twice~~", "\"");
        let mut text = text.into_bytes();
        for (number, bytes) in self.bytes.iter().enumerate() {
            let slot = format!("\"@@{number}@@\"").into_bytes();
            // A later mutation may have removed the slot.
            if let Some(at) = text.windows(slot.len()).position(|window| *window == slot) {
                text.splice(at..at + slot.len(), bytes.iter().copied());
            }
        }
        text
    }
}

/// The pointers of all values inside a value.
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    let inside: Vec<(String, &Value)> = match value {
        Value::Object(fields) => fields.iter().map(|(name, value)| (format!("{at}/{name}"), value)).collect(),
        Value::Array(items) => {
            items.iter().enumerate().map(|(n, value)| (format!("{at}/{n}"), value)).collect()
        }
        _ => Vec::new(),
    };
    for (at, value) in inside.into_iter().filter(|(at, _)| !at.contains("twice")) {
        pointers(value, &at, found);
        found.push(at);
    }
}

use super::*;
use serde_json::Value;

/// One event of each type, as clients, the database and the histories of open orders have it. Lines are only added.
const PINNED: &str = include_str!("pinned.jsonl");

#[test]
fn json_of_each_event_is_pinned() {
    for line in PINNED.lines() {
        let event: OrderEvent = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert_eq!(serde_json::to_value(&event).unwrap(), serde_json::from_str::<Value>(line).unwrap());
    }
}

#[test]
fn each_event_type_is_pinned() {
    let source = include_str!("../event.rs");
    let types =
        source.lines().filter_map(|line| line.trim().strip_prefix("#[serde(rename = \"")?.split('"').next());
    let types: Vec<&str> = types.filter(|name| name.contains('.')).collect();
    let pinned = PINNED.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()["type"].clone());
    assert_eq!(pinned.collect::<Vec<_>>(), types);
}

//! The body of a new order, and its validation, which reports all errors in one response.

use super::{
    address::RawAddress,
    chargeable::{self, chargeable_currency},
    check::Validator,
};
use crate::{
    json::{JsonObject, pointer_segment},
    problem::{FieldError, Problem},
};
use serde::Deserialize;
use std::collections::BTreeMap;
use waybill_domain::{
    ids::{CustomerId, Sku},
    money::{AMOUNT_MAX, Amount},
    order::{LINES_MAX, NewOrder, OrderLine, QUANTITY_MAX, ShortagePolicy},
};

/// The maximum number of metadata entries, and the longest key and value: Stripe's limits.
const METADATA_ENTRIES_MAX: usize = 50;
const METADATA_KEY_CHARS_MAX: usize = 40;
const METADATA_VALUE_CHARS_MAX: usize = 500;

/// The body of `POST /v1/orders`.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RawOrder {
    customer_id: String,
    currency: String,
    #[serde(default)]
    reference: Option<String>,
    lines: Vec<JsonObject<RawLine>>,
    #[serde(default)]
    discount: i64,
    #[serde(default)]
    shipping_fee: i64,
    #[serde(default)]
    tax: i64,
    /// Omitted if the order's total is zero.
    #[serde(default)]
    payment: Option<JsonObject<RawPayment>>,
    shipping_address: JsonObject<RawAddress>,
    #[serde(default)]
    shortage_policy: Option<String>,
    #[serde(default)]
    metadata: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawLine {
    sku: String,
    quantity: i64,
    unit_price: i64,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RawPayment {
    method: String,
}

impl Validator {
    fn line(&mut self, number: usize, raw: RawLine) -> Option<OrderLine> {
        let at = |field: &str| format!("/lines/{number}/{field}");
        let sku = self.collect(&at("sku"), raw.sku.parse::<Sku>());
        let unit_price = self.collect(&at("unit_price"), Amount::new(raw.unit_price));
        let quantity = u32::try_from(raw.quantity).ok().filter(|q| (1..=QUANTITY_MAX).contains(q));
        if quantity.is_none() {
            self.reject(at("quantity"), format!("must be between 1 and {QUANTITY_MAX}"));
        }
        Some(OrderLine { sku: sku?, quantity: quantity?, unit_price: unit_price? })
    }

    fn metadata(&mut self, metadata: &BTreeMap<String, String>) {
        if metadata.len() > METADATA_ENTRIES_MAX {
            self.reject("/metadata", format!("must have at most {METADATA_ENTRIES_MAX} entries"));
        }
        for (key, value) in metadata {
            if key.is_empty() || key.chars().count() > METADATA_KEY_CHARS_MAX || key.contains('\0') {
                self.reject("/metadata", format!("keys must have 1 to {METADATA_KEY_CHARS_MAX} characters"));
            }
            if value.chars().count() > METADATA_VALUE_CHARS_MAX || value.contains('\0') {
                let pointer = format!("/metadata{}", pointer_segment(key));
                self.reject(
                    pointer,
                    format!("must have at most {METADATA_VALUE_CHARS_MAX} characters, none of them NUL"),
                );
            }
        }
    }
}

/// Returns the valid order, or all its validation errors.
pub(crate) fn validate(raw: RawOrder) -> Result<NewOrder, Problem> {
    let mut check = Validator::default();
    if raw.lines.is_empty() || raw.lines.len() > LINES_MAX {
        check.reject("/lines", format!("must have 1 to {LINES_MAX} lines"));
    }
    let lines: Vec<OrderLine> =
        raw.lines.into_iter().enumerate().filter_map(|(number, line)| check.line(number, line.0)).collect();
    let customer_id = check.collect("/customer_id", raw.customer_id.parse::<CustomerId>());
    let currency = check.collect("/currency", chargeable_currency(&raw.currency));
    let discount = check.collect("/discount", Amount::new(raw.discount));
    let shipping_fee = check.collect("/shipping_fee", Amount::new(raw.shipping_fee));
    let tax = check.collect("/tax", Amount::new(raw.tax));
    let policy = raw.shortage_policy.as_deref().unwrap_or(ShortagePolicy::Reject.as_str());
    let shortage_policy = check.collect("/shortage_policy", policy.parse::<ShortagePolicy>());
    let has_payment = raw.payment.is_some();
    let payment_method = raw
        .payment
        .map(|payment| check.validate_text("/payment/method", payment.0.method))
        .unwrap_or_default();
    let reference = raw.reference.map(|reference| check.validate_text("/reference", reference));
    let shipping_address = check.address(raw.shipping_address.0);
    check.metadata(&raw.metadata);

    let order = (|| {
        Some(NewOrder {
            customer_id: customer_id?,
            currency: currency?,
            reference,
            lines,
            discount: discount?,
            shipping_fee: shipping_fee?,
            tax: tax?,
            payment_method,
            shipping_address,
            shortage_policy: shortage_policy?,
            metadata: raw.metadata,
        })
    })();
    match order {
        Some(order) if check.0.is_empty() => {
            check.0 = validate_total(&order, has_payment);
            if check.0.is_empty() { Ok(order) } else { Err(Problem::invalid(check.0)) }
        }
        _ => Err(Problem::invalid(check.0)),
    }
}

/// Validates the order's total; the errors name the fields to change. A total of zero needs no payment.
fn validate_total(order: &NewOrder, has_payment: bool) -> Vec<FieldError> {
    let (pointer, detail) = match (order.subtotal(), order.total()) {
        (Ok(subtotal), _) if order.discount > subtotal => {
            ("/discount", format!("must not exceed the subtotal of {subtotal} minor units"))
        }
        (Ok(_), Ok(total)) if !total.is_zero() && !has_payment => {
            ("/payment", "is required unless the order's total is 0".to_owned())
        }
        (Ok(_), Ok(total)) => return chargeable::validate_chargeable(order, total),
        _ => ("/lines", format!("the order's total must be at most {AMOUNT_MAX} minor units")),
    };
    vec![FieldError { pointer: pointer.into(), detail }]
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn order() -> Value {
        json!({"customer_id": "cus_42", "currency": "EUR", "reference": "W-1001",
            "lines": [{"sku": "SHOE-42-BLK", "quantity": 2, "unit_price": 4999}],
            "shipping_fee": 500, "tax": 1900, "payment": {"method": "pm_card_visa"},
            "shipping_address": {"name": "A", "line1": "B 1", "city": "C", "postal_code": "1", "country": "NL"},
            "shortage_policy": "ask_customer", "metadata": {"channel": "web"}})
    }

    fn invalid_fields(change: impl Fn(&mut Value)) -> Vec<String> {
        let mut body = order();
        change(&mut body);
        let problem = validate(serde_json::from_value(body).unwrap()).unwrap_err();
        let problem = serde_json::to_value(&problem).unwrap();
        assert_eq!(problem["status"], 422);
        problem["errors"]
            .as_array()
            .unwrap()
            .iter()
            .map(|e| e["pointer"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn documented_example_is_valid() {
        let valid = validate(serde_json::from_value(order()).unwrap()).unwrap();
        assert_eq!(valid.total().unwrap().minor(), 2 * 4999 + 500 + 1900);
    }

    #[test]
    fn postal_code_is_required_where_the_country_has_one() {
        let to = |country: &str, postal_code: Value| {
            let mut body = order();
            body["shipping_address"]["country"] = json!(country);
            body["shipping_address"]["postal_code"] = postal_code;
            validate(serde_json::from_value(body).unwrap())
        };
        assert_eq!(to("HK", Value::Null).unwrap().shipping_address.postal_code, None);
        assert_eq!(
            to("HK", json!("999077")).unwrap().shipping_address.postal_code.as_deref(),
            Some("999077")
        );
        assert!(to("NL", json!("1")).is_ok());
        let missing = |country: &str| {
            let country = country.to_owned();
            invalid_fields(move |o| {
                o["shipping_address"]["country"] = json!(country);
                o["shipping_address"].as_object_mut().unwrap().remove("postal_code");
            })
        };
        assert_eq!(missing("NL"), ["/shipping_address/postal_code"]);
        assert_eq!(
            missing("ZZ"),
            ["/shipping_address/country"],
            "an unknown country has no postal code rule"
        );
    }

    #[test]
    fn each_invalid_field_is_reported() {
        assert_eq!(invalid_fields(|o| o["lines"][0]["quantity"] = json!(0)), ["/lines/0/quantity"]);
        assert_eq!(invalid_fields(|o| o["lines"][0]["quantity"] = json!(-3)), ["/lines/0/quantity"]);
        assert_eq!(invalid_fields(|o| o["lines"][0]["unit_price"] = json!(-1)), ["/lines/0/unit_price"]);
        assert_eq!(invalid_fields(|o| o["lines"] = json!([])), ["/lines"]);
        assert_eq!(invalid_fields(|o| o["currency"] = json!("EURO")), ["/currency"]);
        assert_eq!(
            invalid_fields(|o| o["shipping_address"]["country"] = json!("nl")),
            ["/shipping_address/country"]
        );
        assert_eq!(invalid_fields(|o| o["shortage_policy"] = json!("hope")), ["/shortage_policy"]);
        assert_eq!(
            invalid_fields(|o| o["shipping_address"]["country"] = json!("ZZ")),
            ["/shipping_address/country"]
        );
        assert_eq!(
            invalid_fields(|o| o["shipping_address"]["phone"] = json!("x")),
            ["/shipping_address/phone"]
        );
        assert_eq!(
            invalid_fields(|o| o["shipping_address"]["email"] = json!("x")),
            ["/shipping_address/email"]
        );
        assert_eq!(invalid_fields(|o| o["currency"] = json!("XAU")), ["/currency"]);
        assert_eq!(invalid_fields(|o| o["currency"] = json!("HRK")), ["/currency"]);
        assert_eq!(invalid_fields(|o| o["customer_id"] = json!("")), ["/customer_id"]);
        assert_eq!(invalid_fields(|o| o["payment"]["method"] = json!("\u{0}")), ["/payment/method"]);
        let both = |o: &mut Value| {
            o["tax"] = json!(-1);
            o["lines"][0]["sku"] = json!(" a");
        };
        assert_eq!(invalid_fields(both), ["/lines/0/sku", "/tax"]);
    }

    #[test]
    fn overflowing_total_is_rejected_at_lines() {
        let huge = |o: &mut Value| {
            o["lines"] = json!(vec![json!({"sku": "S", "quantity": 10_000, "unit_price": AMOUNT_MAX}); 200]);
        };
        assert_eq!(invalid_fields(huge), ["/lines"]);
    }

    /// Returns the pointers of the validation errors of an order of one unit, or the valid order.
    fn wrong_price(currency: &str, unit_price: i64) -> Result<Vec<String>, NewOrder> {
        let mut body = order();
        body["currency"] = json!(currency);
        body["lines"] = json!([{"sku": "S", "quantity": 1, "unit_price": unit_price}]);
        (body["tax"], body["shipping_fee"]) = (json!(0), json!(0));
        let problem = match validate(serde_json::from_value(body).unwrap()) {
            Ok(order) => return Err(order),
            Err(problem) => serde_json::to_value(&problem).unwrap(),
        };
        let errors = problem["errors"].as_array().unwrap();
        Ok(errors.iter().map(|e| e["pointer"].as_str().unwrap().to_owned()).collect())
    }

    #[test]
    fn unrepresentable_amount_is_rejected_by_its_field() {
        assert_eq!(wrong_price("MGA", 1_005).unwrap(), ["/lines/0/unit_price"]);
        assert_eq!(wrong_price("KWD", 5_001).unwrap(), ["/lines/0/unit_price"]);
        assert!(wrong_price("MGA", 10_100).is_err() && wrong_price("KWD", 5_010).is_err());
        let tax = |o: &mut Value| {
            (o["currency"], o["tax"]) = (json!("KWD"), json!(5));
            o["lines"] = json!([{"sku": "S", "quantity": 1, "unit_price": 5_000}]);
        };
        assert_eq!(invalid_fields(tax), ["/tax"]);
    }

    #[test]
    fn unit_price_finer_than_total_is_accepted() {
        let mut body = order();
        (body["currency"], body["tax"]) = (json!("KWD"), json!(0));
        body["lines"] = json!([{"sku": "S", "quantity": 2, "unit_price": 5_005}]);
        assert!(validate(serde_json::from_value(body).unwrap()).is_ok());
    }

    #[test]
    fn total_outside_the_provider_limits_is_rejected() {
        assert_eq!(wrong_price("EUR", 49).unwrap(), ["/lines"]);
        assert_eq!(wrong_price("EUR", 100_000_000).unwrap(), ["/lines"]);
        assert_eq!(wrong_price("ISK", 1_000_000).unwrap(), ["/lines"]);
        assert!(wrong_price("EUR", 50).is_err() && wrong_price("EUR", 99_999_999).is_err());
    }

    #[test]
    fn unsupported_currency_is_rejected_by_its_field() {
        assert_eq!(wrong_price("IRR", 5_000).unwrap(), ["/currency"]);
        assert_eq!(wrong_price("LYD", 5_000).unwrap(), ["/currency"]);
    }

    #[test]
    fn discount_above_the_total_is_rejected_at_discount() {
        let with = |discount: i64, fee: i64| {
            move |o: &mut Value| {
                o["discount"] = json!(discount);
                o["shipping_fee"] = json!(fee);
                o["tax"] = json!(0);
            }
        };
        for (discount, fee) in [(9_999, 0), (9_999, 500), (AMOUNT_MAX, 0)] {
            assert_eq!(invalid_fields(with(discount, fee)), ["/discount"], "{discount} off, fee {fee}");
        }
        let mut whole = order();
        with(9_998, 0)(&mut whole);
        whole.as_object_mut().unwrap().remove("payment");
        let free = validate(serde_json::from_value(whole).unwrap()).unwrap();
        assert!(free.total().unwrap().is_zero(), "a total of zero is accepted, and needs no payment");
        assert_eq!(invalid_fields(|o| drop(o.as_object_mut().unwrap().remove("payment"))), ["/payment"]);
    }
}

//! Units are allocated once, and amounts add up to the last minor unit.

use super::*;
use proptest::{prelude::*, strategy::ValueTree, test_runner::TestRunner};
use uuid::Uuid;

pub(super) fn order_line(sku: usize, quantity: u32, price: i64) -> OrderLine {
    OrderLine {
        sku: format!("SKU-{sku}").parse().unwrap(),
        quantity,
        unit_price: Amount::new(price).unwrap(),
    }
}

pub(super) fn stock(entries: &[(usize, &str, u32)]) -> AvailableStock {
    let mut available = AvailableStock::new();
    for (sku, place, quantity) in entries {
        available
            .entry(format!("SKU-{sku}").parse().unwrap())
            .or_default()
            .insert(place.parse().unwrap(), *quantity);
    }
    available
}

const ORDER: OrderId = OrderId(Uuid::nil());

#[test]
fn single_location_beats_a_split() {
    let lines = [order_line(1, 2, 100), order_line(2, 2, 100)];
    let available = stock(&[(1, "A", 2), (2, "B", 2), (1, "C", 2), (2, "C", 2)]);
    let allocation = allocate(ORDER, &lines, &available);
    assert_eq!(allocation.shipments.len(), 1);
    assert_eq!(allocation.shipments[0].location.as_str(), "C");
}

#[test]
fn kwd_shipments_are_multiples_of_ten() {
    let lines = [order_line(1, 2, 5_005)];
    let mut allocation = allocate(ORDER, &lines, &stock(&[(1, "A", 1), (1, "B", 1)]));
    allocation.set_amounts(&lines, OrderCharges::default(), Currency::KWD).unwrap();
    let amounts: Vec<i64> = allocation.shipments.iter().map(|s| s.amount.minor()).collect();
    assert_eq!(amounts, [5_010, 5_000]);
}

#[test]
fn two_lines_of_one_sku_get_distinct_units() {
    let allocation = allocate(ORDER, &[order_line(1, 2, 1), order_line(1, 2, 1)], &stock(&[(1, "A", 3)]));
    assert_eq!(allocation.short, [Shortage { line: 1, missing: 1 }]);
}

/// An order and the available stock of its SKUs.
#[derive(Debug)]
struct Case {
    lines: Vec<OrderLine>,
    available: AvailableStock,
    charges: OrderCharges,
}

impl Case {
    fn items_total(&self) -> i64 {
        self.lines.iter().map(|l| l.unit_price.minor() * i64::from(l.quantity)).sum()
    }

    fn allocation(&self) -> Allocation {
        let mut allocation = allocate(ORDER, &self.lines, &self.available);
        allocation.set_amounts(&self.lines, self.charges, Currency::EUR).unwrap();
        allocation
    }

    /// The same order in a currency whose amounts are multiples of `unit` at the provider; the tax makes the total a
    /// multiple.
    fn allocation_in(&mut self, currency: Currency, unit: i64) -> Allocation {
        let total = |charges: &OrderCharges, item_amounts: i64| {
            item_amounts - charges.discount.minor() + charges.shipping_fee.minor() + charges.tax.minor()
        };
        let missing = (unit - total(&self.charges, self.items_total()) % unit) % unit;
        self.charges.tax = self.charges.tax.plus(Amount::new(missing).unwrap()).unwrap();
        let mut allocation = allocate(ORDER, &self.lines, &self.available);
        allocation.set_amounts(&self.lines, self.charges, currency).unwrap();
        allocation
    }
}

fn worth(case: &Case, shipment: &PlannedShipment) -> i64 {
    let line = |l: &ShipmentLine| case.lines[l.line as usize].unit_price.minor() * i64::from(l.quantity);
    shipment.lines.iter().map(line).sum()
}

/// Amounts as in real orders: often zero, often so small that every share is rounded.
fn minor(most: i64) -> impl Strategy<Value = i64> {
    prop_oneof![Just(0), 1..10i64, 0..=most]
}

fn cases() -> impl Strategy<Value = Case> {
    let lines =
        (prop::bool::weighted(0.2), prop::collection::vec((0usize..4, 1u32..20, minor(100_000)), 1..8));
    let have = prop::collection::vec((0usize..4, 0usize..4, 0u32..40), 0..16);
    let off = prop_oneof![Just(0i64), Just(100), 1..100i64];
    let charges = (off, minor(5_000), minor(50_000));
    (lines, have, charges).prop_map(|((free, lines), have, (off, fee, tax))| {
        let lines = lines.iter().map(|(s, q, p)| order_line(*s, *q, if free { 0 } else { *p })).collect();
        let places = ["A", "B", "C", "D"];
        let available = stock(&have.iter().map(|(s, p, q)| (*s, places[*p], *q)).collect::<Vec<_>>());
        let mut case = Case { lines, available, charges: OrderCharges::default() };
        let amount = |minor| Amount::new(minor).unwrap();
        let discount = amount(case.items_total() * off / 100);
        case.charges = OrderCharges { discount, shipping_fee: amount(fee), tax: amount(tax) };
        case
    })
}

/// `part / whole` of `amount`, rounded down and rounded up.
fn share(amount: Amount, part: i64, whole: i64) -> (i64, i64) {
    let (exact, whole) = (i128::from(amount.minor()) * i128::from(part), i128::from(whole));
    let floor = i64::try_from(exact.div_euclid(whole)).unwrap();
    (floor, floor + i64::from(exact % whole != 0))
}

#[test]
fn generated_cases_cover_every_kind() {
    let mut runner = TestRunner::deterministic();
    let cases: Vec<Case> = (0..1000).map(|_| cases().new_tree(&mut runner).unwrap().current()).collect();
    let count = |what: &str, is: &dyn Fn(&Case, &Allocation) -> bool| {
        let found = cases.iter().filter(|case| is(case, &case.allocation())).count();
        assert!(found >= 30, "only {found} of 1000 cases: {what}");
    };
    let split = |a: &Allocation| a.shipments.len() > 1;
    let no_fee = |c: &Case| c.charges.shipping_fee.is_zero();
    let all_off = |c: &Case| c.items_total() > 0 && c.charges.discount.minor() == c.items_total();
    count("several shipments, nothing short", &|_, a| split(a) && a.short.is_empty());
    count("several shipments of a short order", &|_, a| split(a) && !a.short.is_empty());
    count("nothing ships", &|_, a| a.shipments.is_empty());
    count("several shipments, full discount", &|c, a| split(a) && all_off(c));
    count("short, full discount", &|c, a| !a.short.is_empty() && split(a) && all_off(c));
    count("several shipments, discount", &|c, a| split(a) && !c.charges.discount.is_zero() && !all_off(c));
    count("a line is free, others are not", &|c, a| {
        split(a) && c.items_total() > 0 && c.lines.iter().any(|l| l.unit_price.is_zero())
    });
    count("no fee", &|c, a| split(a) && no_fee(c));
    count("a fee on items without a price", &|c, a| split(a) && !no_fee(c) && c.items_total() == 0);
    count("tax on items without a price", &|c, a| {
        split(a) && !c.charges.tax.is_zero() && c.items_total() == 0
    });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn units_are_allocated_once_and_completely(case in cases()) {
        let allocation = case.allocation();
        let allocated = |is: &dyn Fn(&Location, &ShipmentLine) -> bool| -> u32 {
            let all = allocation.shipments.iter().flat_map(|s| s.lines.iter().map(move |l| (&s.location, l)));
            all.filter(|(place, line)| is(place, line)).map(|(_, line)| line.quantity).sum()
        };
        for (sku, at) in &case.available {
            for (place, quantity) in at {
                prop_assert!(allocated(&|p, l| p == place && l.sku == *sku) <= *quantity);
            }
        }
        for (number, line) in (0u32..).zip(&case.lines) {
            let missing: u32 = allocation.short.iter().filter(|s| s.line == number).map(|s| s.missing).sum();
            prop_assert_eq!(allocated(&|_, l| l.line == number) + missing, line.quantity);
            let there: u32 = case.available.get(&line.sku).map_or(0, |at| at.values().sum());
            prop_assert!(missing == 0 || allocated(&|_, l| l.sku == line.sku) == there, "stock left over");
        }
        for shipment in &allocation.shipments {
            prop_assert!(!shipment.lines.is_empty() && shipment.lines.iter().all(|l| l.quantity > 0));
        }
    }

    #[test]
    fn shipment_amounts_add_up_exactly(case in cases()) {
        let (allocation, charges, item_amounts) = (case.allocation(), case.charges, case.items_total());
        for shipment in &allocation.shipments {
            prop_assert_eq!(shipment.amount, Amount::sum(shipment.lines.iter().map(|l| l.amount)).unwrap());
        }
        let captured = allocation.amount().unwrap().minor();
        let fee = charges.shipping_fee.minor();
        if allocation.shipments.is_empty() {
            prop_assert_eq!(captured, 0);
        } else if item_amounts == 0 {
            prop_assert_eq!(captured, fee + charges.tax.minor(), "the fee and the tax are still charged");
        } else {
            // The shipped units carry their share of discount and tax, and the full fee.
            let shipped: i64 = allocation.shipments.iter().map(|s| worth(&case, s)).sum();
            let (off, tax) = (share(charges.discount, shipped, item_amounts), share(charges.tax, shipped, item_amounts));
            let (least, most) = (shipped - off.1 + tax.0 + fee, shipped - off.0 + tax.1 + fee);
            prop_assert!((least..=most).contains(&captured), "{captured} is not in {least}..={most}");
            if allocation.short.is_empty() {
                prop_assert_eq!(captured, item_amounts - charges.discount.minor() + charges.tax.minor() + fee);
            }
        }
    }

    #[test]
    fn shares_are_chargeable_and_add_up_to_the_total(
        mut case in cases(),
        (currency, unit) in prop::sample::select(vec![
            (Currency::KWD, 10), (Currency::MGA, 100), (Currency::ISK, 1), (Currency::UGX, 1),
        ]),
    ) {
        let allocation = case.allocation_in(currency, unit);
        let exact = case.allocation().amount().unwrap().minor();
        for line in allocation.shipments.iter().flat_map(|s| &s.lines) {
            prop_assert_eq!(line.amount.minor() % unit, 0);
        }
        for shipment in &allocation.shipments {
            prop_assert_eq!(shipment.amount.minor() % unit, 0);
        }
        let captured = allocation.amount().unwrap().minor();
        prop_assert_eq!(captured, exact - exact % unit);
        if allocation.short.is_empty() && !allocation.shipments.is_empty() {
            let charges = case.charges;
            let total = case.items_total() - charges.discount.minor() + charges.shipping_fee.minor() + charges.tax.minor();
            prop_assert_eq!(captured, total);
        }
    }

    #[test]
    fn line_amount_is_its_own_share(case in cases()) {
        let (allocation, charges, item_amounts) = (case.allocation(), case.charges, case.items_total());
        let shipped: i64 = allocation.shipments.iter().map(|s| worth(&case, s)).sum();
        for line in allocation.shipments.iter().flat_map(|s| &s.lines).filter(|_| shipped > 0) {
            let price = case.lines[line.line as usize].unit_price.minor() * i64::from(line.quantity);
            let (off, tax) = (share(charges.discount, price, item_amounts), share(charges.tax, price, item_amounts));
            let fee = share(charges.shipping_fee, price, shipped);
            let (least, most) = (price - off.1 + tax.0 + fee.0, price - off.0 + tax.1 + fee.1);
            let amount = line.amount.minor();
            prop_assert!((least..=most).contains(&amount), "{amount} is not in {least}..={most}");
            prop_assert!(price > 0 || amount == 0, "a free line has no amount if others have a price");
        }
    }
}

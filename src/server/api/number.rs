//! Arithmetic on numbers of JSON that never overflows and never leaves JSON.

use serde_json::{Number, Value};

/// To how many parts fractions are rounded.
const PARTS: f64 = 10_000.0;

/// The sum of what are numbers; nothing if none is. Whole numbers stay whole.
pub(super) fn sum<'a>(values: impl Iterator<Item = &'a Value> + Clone) -> Option<Value> {
    let numbers = values.filter(|value| value.is_number());
    numbers.clone().next()?;
    let whole = numbers.clone().try_fold(0_i128, |sum, value| Some(sum.saturating_add(integer(value)?)));
    match whole {
        Some(sum) => Some(from_integer(sum)),
        None => Some(float(numbers.filter_map(Value::as_f64).sum())),
    }
}

/// The mean of what are numbers, each by its weight; nothing if none is. If no weight counts, all
/// weigh the same.
pub(super) fn mean(weighted: &[(&Value, Option<f64>)]) -> Option<Value> {
    let all = weighted.iter().filter_map(|(value, weight)| Some((value.as_f64()?, weight.unwrap_or_default())));
    let numbers: Vec<_> = all.map(|(value, weight)| (value, weight.max(0.0))).collect();
    let total: f64 = numbers.iter().map(|(_, weight)| weight).sum();
    match numbers.as_slice() {
        [] => None,
        _ if total > 0.0 => Some(float(numbers.iter().map(|(value, weight)| value * (weight / total)).sum())),
        all => Some(float(all.iter().map(|(value, _)| value / all.len() as f64).sum())),
    }
}

/// The least of what are numbers.
pub(super) fn min<'a>(values: impl Iterator<Item = &'a Value>) -> Option<Value> {
    values.filter(|value| value.is_number()).min_by(|a, b| order(a, b)).cloned()
}

/// The greatest of what are numbers.
pub(super) fn max<'a>(values: impl Iterator<Item = &'a Value>) -> Option<Value> {
    values.filter(|value| value.is_number()).max_by(|a, b| order(a, b)).cloned()
}

fn order(a: &Value, b: &Value) -> std::cmp::Ordering {
    match (integer(a), integer(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        _ => a.as_f64().unwrap_or_default().total_cmp(&b.as_f64().unwrap_or_default()),
    }
}

fn integer(value: &Value) -> Option<i128> {
    value.as_i64().map(i128::from).or_else(|| value.as_u64().map(i128::from))
}

fn from_integer(sum: i128) -> Value {
    match u64::try_from(sum) {
        Ok(sum) => sum.into(),
        Err(_) if sum > 0 => u64::MAX.into(),
        Err(_) => i64::try_from(sum).unwrap_or(i64::MIN).into(),
    }
}

/// JSON has no infinity.
fn float(number: f64) -> Value {
    let finite = number.clamp(f64::MIN, f64::MAX);
    let rounded = (finite * PARTS).round() / PARTS;
    let number = if rounded.is_finite() { rounded } else { finite };
    Number::from_f64(number).map_or(Value::Null, Value::Number)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn sum_of(values: &[Value]) -> Option<Value> {
        sum(values.iter())
    }

    #[test]
    fn whole_numbers_stay_whole_and_fractions_are_rounded() {
        assert_eq!(sum_of(&[json!(1), json!(2)]), Some(json!(3)));
        assert_eq!(sum_of(&[json!(0.1), json!(0.2)]), Some(json!(0.3)));
        assert_eq!(sum_of(&[json!(1), json!("2"), json!(null)]), Some(json!(1)));
        assert_eq!(sum_of(&[json!("2")]), None);
    }

    #[test]
    fn what_is_too_large_stays_at_the_end_of_the_range() {
        assert_eq!(sum_of(&[json!(u64::MAX), json!(u64::MAX)]), Some(json!(u64::MAX)));
        assert_eq!(sum_of(&[json!(i64::MIN), json!(i64::MIN)]), Some(json!(i64::MIN)));
        assert_eq!(sum_of(&[json!(f64::MAX), json!(f64::MAX)]), Some(json!(f64::MAX)));
        assert_eq!(sum_of(&[json!(u64::MAX), json!(-1)]), Some(json!(u64::MAX - 1)));
    }

    #[test]
    fn a_mean_counts_each_by_its_weight() {
        let [low, high] = [json!(0.1), json!(0.5)];
        assert_eq!(mean(&[(&low, Some(3.0)), (&high, Some(1.0))]), Some(json!(0.2)));
        assert_eq!(mean(&[(&low, None), (&high, Some(-1.0))]), Some(json!(0.3)));
        assert_eq!(mean(&[(&Value::Null, Some(1.0))]), None);
    }

    #[test]
    fn the_least_and_the_greatest_are_found_among_numbers_of_any_kind() {
        let values = [json!(u64::MAX), json!(-1), json!(0.5), json!("x")];
        assert_eq!((min(values.iter()), max(values.iter())), (Some(json!(-1)), Some(json!(u64::MAX))));
        assert_eq!(min([json!("x")].iter()), None);
    }
}

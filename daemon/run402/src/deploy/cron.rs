//! How often a cron expression is due, as the tiers count it.
//!
//! Only minutes and hours count: every time of one day, and the smallest gap between two of them around
//! midnight. An expression that is not understood is left to the gateway.

use std::collections::BTreeSet;

/// The shortest gap in minutes; `None` when the expression is not understood.
pub fn shortest_interval_minutes(expression: &str) -> Option<u32> {
    let fields: Vec<&str> = expression.split_whitespace().collect();
    let [minutes, hours, _, _, _] = fields.as_slice() else { return None };
    let minutes = expand(minutes, 59)?;
    let hours = expand(hours, 23)?;
    let times: Vec<u32> = hours.iter().flat_map(|hour| minutes.iter().map(move |minute| hour * 60 + minute)).collect();
    const DAY: u32 = 24 * 60;
    let first = *times.first()?;
    let around_midnight = first + DAY - times.last()?;
    times.windows(2).map(|pair| pair[1] - pair[0]).chain([around_midnight]).min()
}

/// `*`, lists, ranges and steps.
fn expand(field: &str, last: u32) -> Option<BTreeSet<u32>> {
    let mut values = BTreeSet::new();
    for item in field.split(',') {
        let (range, step) = match item.split_once('/') {
            Some((range, step)) => (range, number(step).filter(|step| *step > 0)?),
            None => (item, 1),
        };
        let (from, to) = match range.split_once('-') {
            _ if range == "*" => (0, last),
            Some((from, to)) => (number(from)?, number(to)?),
            // A single value with a step runs to the end.
            None if item.contains('/') => (number(range)?, last),
            None => (number(range)?, number(range)?),
        };
        if from > to || to > last {
            return None;
        }
        values.extend((from..=to).step_by(step as usize));
    }
    Some(values)
}

fn number(text: &str) -> Option<u32> {
    let plain = !text.is_empty() && text.len() <= 4 && text.bytes().all(|byte| byte.is_ascii_digit());
    plain.then(|| text.parse().ok()).flatten()
}

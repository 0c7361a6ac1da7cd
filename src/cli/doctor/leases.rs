//! Whether leases in the embedded stores are about to end.

use std::time::Duration;

use super::{Finding, within};
use crate::config::{NodeDir, Stores};
use crate::storage::local::{LeaseSurvey, survey_leases};
use crate::util::Clock;

const CHECK: &str = "leases";
/// How long all stores together are looked through.
const LIMIT: Duration = Duration::from_secs(5);
/// A lease that ends within this, in seconds, ends soon.
const SOON: i64 = 7 * 24 * 3600;

pub fn look(dir: &NodeDir) -> Vec<Finding> {
    // What cannot be read is told elsewhere.
    let entries = Stores::load(dir).unwrap_or_default().entries;
    if entries.is_empty() {
        return Vec::new();
    }
    let each = LIMIT / entries.len() as u32;
    let now = Clock::system().now_secs();
    let mut sum = LeaseSurvey::default();
    for entry in entries {
        let at = entry.directory(dir);
        match within(each * 2, move || survey_leases(&at, now, now + SOON, each)) {
            Some(Ok(found)) => {
                sum.shares += found.shares;
                sum.ended += found.ended;
                sum.ending += found.ending;
                sum.is_partial |= found.is_partial;
            }
            // One that is away is told elsewhere.
            Some(Err(_)) => {}
            None => sum.is_partial = true,
        }
    }
    vec![judged(&sum)]
}

fn judged(survey: &LeaseSurvey) -> Finding {
    let LeaseSurvey { shares, ended, ending, is_partial } = *survey;
    let among = if is_partial { format!("of the first {shares} shares") } else { format!("of {shares} shares") };
    if ended + ending == 0 {
        return Finding::ok(CHECK, format!("{among} in the stores none has a lease that ends within a week"));
    }
    let message = format!(
        "{among} in the stores {ended} have no lease that lasts, and {ending} one that ends within a week; tahoefs \
         removes none of them"
    );
    let remedy = "nothing, as long as tahoefs alone has the stores; where a Tahoe node is to serve them, leave its \
         `expire.enabled` off until `tahoe deep-check --add-lease ALIAS:` has renewed the leases";
    Finding::note(CHECK, message).with(remedy)
}

#[cfg(test)]
mod tests {
    use super::super::State;
    use super::*;

    #[test]
    fn leases_that_end_are_told_and_no_reason_to_fail() {
        let survey = LeaseSurvey { shares: 10, ..LeaseSurvey::default() };
        assert_eq!(judged(&survey).state, State::Ok);
        let told = judged(&LeaseSurvey { ended: 1, ending: 2, is_partial: true, ..survey });
        assert_eq!(told.state, State::Note);
        assert!(told.message.starts_with("of the first 10 shares in the stores 1 have"), "{told:?}");
    }
}

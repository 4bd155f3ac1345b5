//! How serious things are, and since when.

use serde::Serialize;
use tandem_types::Timestamp;

use super::logistic::Map;
use super::watch::Reading;

/// Probabilities above which a forecast is a warning, and critical.
const WARNING: f64 = 0.6;
const CRITICAL: f64 = 0.8;
/// A warning stands until the probability is below this, so that one that hovers about the limit is one warning.
const CALM: f64 = 0.5;

/// How serious.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Level {
    Normal,
    Warning,
    Critical,
}

/// What is to come of one agent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(crate) struct Forecast {
    pub(crate) level: Level,
    /// Since when it is this serious.
    pub(crate) since: Timestamp,
    /// Probabilities of a failure within 5 and 15 minutes.
    pub(crate) probabilities: [f64; 2],
    pub(crate) calibrated: bool,
    pub(crate) reading: Reading,
    /// Since when it is more than normal.
    pub(crate) warned: Option<Timestamp>,
    /// Looks in a row at which it was critical.
    pub(crate) criticals: u32,
}

impl Forecast {
    /// What a reading says, after what was said before.
    pub(crate) fn after(former: Option<&Self>, reading: Reading, map: &Map) -> Self {
        let probabilities = map.probabilities(reading.anomaly, reading.urgency);
        let [_, worst] = probabilities;
        let warned = former.and_then(|former| former.warned);
        let level = match worst {
            p if p > CRITICAL => Level::Critical,
            p if p > WARNING || (warned.is_some() && p > CALM) => Level::Warning,
            _ => Level::Normal,
        };
        let since = former.filter(|former| former.level == level).map_or(reading.at, |former| former.since);
        let warned = (level > Level::Normal).then(|| warned.unwrap_or(reading.at));
        let before = former.map_or(0, |former| former.criticals);
        let criticals = if level == Level::Critical { before.saturating_add(1) } else { 0 };
        Self { level, since, probabilities, calibrated: map.calibrated, reading, warned, criticals }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_warning_that_hovers_is_one_warning() {
        let map = Map::default();
        let mut former: Option<Forecast> = None;
        let mut told = Vec::new();
        // By the unfitted map 0.90 is above even odds, 0.95 above 0.6 and 1.1 above 0.8.
        for (minute, anomaly) in [0.2, 0.95, 0.90, 0.95, 1.1, 1.1, 0.90, 0.8, 0.90].into_iter().enumerate() {
            let at = Timestamp::from_secs(60 * minute as i64);
            let reading = Reading { at, anomaly, urgency: 0.0, memory_full: None, causes: vec![] };
            let forecast = Forecast::after(former.as_ref(), reading, &map);
            told.push((forecast.level, forecast.warned.map(|at| at.micros() / 60_000_000), forecast.criticals));
            former = Some(forecast);
        }
        use Level::{Critical, Normal, Warning};
        let expected = [
            (Normal, None, 0),
            (Warning, Some(1), 0),
            (Warning, Some(1), 0),
            (Warning, Some(1), 0),
            (Critical, Some(1), 1),
            (Critical, Some(1), 2),
            (Warning, Some(1), 0),
            (Normal, None, 0),
            (Normal, None, 0),
        ];
        assert_eq!(told, expected);
    }
}

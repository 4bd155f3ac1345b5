//! How long a start is expected to take, in words.

use tandem_node::Forecast;

use crate::style;

/// In one line: `healthy in about 3.5 s, by the last 5 starts`.
pub(crate) fn brief(forecast: &Forecast) -> String {
    format!("healthy in about {}, by the last {} starts", style::span(forecast.total_ms), forecast.starts)
}

/// With the chain that makes it so long, and the edge worth cutting.
pub(crate) fn full(forecast: &Forecast) -> Vec<String> {
    let links = forecast.chain.iter().map(|(group, adds)| format!("{group} {}", style::span(*adds)));
    let mut lines = vec![brief(forecast), format!("  longest chain: {}", links.collect::<Vec<_>>().join(" -> "))];
    if let Some(cut) = &forecast.cut {
        let (group, other, total) = (&cut.group, &cut.waits_for, style::span(cut.total_ms));
        lines.push(format!("  if {group} did not wait for {other}: {total}"));
    }
    lines
}

#[cfg(test)]
mod tests {
    use tandem_node::Cut;

    use super::*;

    #[test]
    fn a_forecast_names_its_chain_and_what_would_shorten_it() {
        let name = |name: &str| name.parse().unwrap();
        let cut = Cut { group: name("talk"), waits_for: name("models"), total_ms: 900 };
        let chain = vec![(name("models"), 1_200), (name("talk"), 800)];
        let told = Forecast { starts: 4, total_ms: 2_000, chain, cut: Some(cut) };
        let lines = [
            "healthy in about 2.0 s, by the last 4 starts",
            "  longest chain: models 1.2 s -> talk 800 ms",
            "  if talk did not wait for models: 900 ms",
        ];
        assert_eq!(full(&told), lines);
        assert_eq!(full(&Forecast { cut: None, ..told }), lines[..2]);
    }
}

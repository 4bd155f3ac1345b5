//! One page of metrics for the fleet, out of those of the node's groups and of other nodes' hubs.
//!
//! The format wants all lines of a metric together, so pages cannot stand one after the other.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use tandem_types::GroupId;

use super::exposition::parts;

/// The label that says whose line it is.
const GROUP: &str = "group";
/// Where a label of that name goes which another group gave its line itself; Prometheus does the same.
const EXPORTED: &str = "exported_group";

/// What a page says of one metric, each line with its group.
#[derive(Debug, Default, PartialEq)]
struct Family {
    help: Option<String>,
    kind: Option<String>,
    lines: String,
}

/// A page of metrics, taken apart once, to be shown many times.
#[derive(Debug, Default, PartialEq)]
pub(crate) struct MetricsPage(BTreeMap<String, Family>);

impl MetricsPage {
    /// The page of a group. Each line says which group it is of, unless `own`: what a hub says about groups keeps saying
    /// so, and so does a page that another hub made in this way.
    pub(crate) fn of(group: &GroupId, page: &str, own: bool) -> Self {
        let mut families: BTreeMap<String, Family> = BTreeMap::new();
        for line in page.lines().map(|line| line.trim_matches([' ', '\t', '\r'])) {
            if let Some(comment) = line.strip_prefix('#') {
                let mut words = comment.trim_start().splitn(3, [' ', '\t']);
                let (what, Some(name), Some(text)) = (words.next(), words.next(), words.next()) else { continue };
                let family = families.entry(name.to_owned()).or_default();
                match what {
                    Some("HELP") => _ = family.help.get_or_insert_with(|| text.to_owned()),
                    Some("TYPE") => _ = family.kind.get_or_insert_with(|| text.to_owned()),
                    _ => {}
                }
            } else if let Some((name, labels, value)) = parts(line) {
                let base = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
                let kind = |base| families.get(base).and_then(|family: &Family| family.kind.as_deref());
                let base = base.filter(|base| matches!(kind(*base), Some("histogram" | "summary")));
                let family = families.entry(base.unwrap_or(name).to_owned()).or_default();
                write(&mut family.lines, name, labels, value, group, own);
            }
        }
        Self(families)
    }
}

/// Several pages as one. Where two differ on what a metric is, the lines of the second are left out.
pub(crate) fn rolled_up<'a>(pages: impl IntoIterator<Item = &'a MetricsPage>) -> String {
    let mut families: BTreeMap<&str, Vec<&Family>> = BTreeMap::new();
    let all = pages.into_iter().flat_map(|page| &page.0);
    all.for_each(|(name, family)| families.entry(name).or_default().push(family));
    let mut rolled = String::new();
    for (name, of) in families {
        let kind = of.iter().find_map(|family| family.kind.as_ref());
        let lines: Vec<&str> =
            of.iter().filter(|family| family.kind.as_ref() == kind).map(|family| family.lines.as_str()).collect();
        if lines.iter().all(|lines| lines.is_empty()) {
            continue;
        }
        // Writing to a String cannot fail.
        if let Some(help) = of.iter().find_map(|family| family.help.as_ref()) {
            let _ = writeln!(rolled, "# HELP {name} {help}");
        }
        if let Some(kind) = kind {
            let _ = writeln!(rolled, "# TYPE {name} {kind}");
        }
        lines.into_iter().for_each(|lines| rolled += lines);
    }
    rolled
}

fn write(into: &mut String, name: &str, mut labels: BTreeMap<String, String>, value: &str, group: &GroupId, own: bool) {
    match labels.remove(GROUP) {
        Some(about) if own => drop(labels.insert(GROUP.to_owned(), about)),
        about => {
            labels.extend(about.map(|about| (EXPORTED.to_owned(), about)));
            labels.insert(GROUP.to_owned(), group.to_string());
        }
    }
    let escaped = |value: &str| value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n");
    let labels: Vec<String> = labels.iter().map(|(name, value)| format!("{name}=\"{}\"", escaped(value))).collect();
    // Writing to a String cannot fail.
    let _ = writeln!(into, "{name}{{{}}} {value}", labels.join(","));
}

#[cfg(test)]
mod tests {
    use super::super::exposition::read;
    use super::*;
    use proptest::prelude::*;

    fn id(text: &str) -> GroupId {
        text.parse().unwrap()
    }

    #[test]
    fn each_metric_is_in_one_piece_and_says_whose_it_is() {
        let own = "# HELP probes_total Probes.\n# TYPE probes_total counter\nprobes_total{group=\"n/a\"} 3\n\n\
                   # TYPE took_seconds histogram\ntook_seconds_bucket{le=\"+Inf\"} 1\ntook_seconds_sum 0.5\n\
                   took_seconds_count 1\n";
        let a = "# TYPE took_seconds histogram\ntook_seconds_bucket{le=\"+Inf\"} 2\ntook_seconds_sum 1\n\
                 took_seconds_count 2\n# TYPE probes_total counter\nprobes_total{group=\"x\",p=\"\\\"q\\\\\"} 4 17\n\
                 lone 1\nbroken{ 1\n";
        let b = "# TYPE took_seconds gauge\ntook_seconds 9\n# TYPE empty counter\n";
        let (hub, n_a, n_b) = (id("n/hub"), id("n/a"), id("n/b"));
        assert_eq!(
            rolled_up(&[
                MetricsPage::of(&hub, own, true),
                MetricsPage::of(&n_a, a, false),
                MetricsPage::of(&n_b, b, false)
            ]),
            "lone{group=\"n/a\"} 1\n\
             # HELP probes_total Probes.\n# TYPE probes_total counter\nprobes_total{group=\"n/a\"} 3\n\
             probes_total{exported_group=\"x\",group=\"n/a\",p=\"\\\"q\\\\\"} 4 17\n\
             # TYPE took_seconds histogram\ntook_seconds_bucket{group=\"n/hub\",le=\"+Inf\"} 1\n\
             took_seconds_sum{group=\"n/hub\"} 0.5\ntook_seconds_count{group=\"n/hub\"} 1\n\
             took_seconds_bucket{group=\"n/a\",le=\"+Inf\"} 2\ntook_seconds_sum{group=\"n/a\"} 1\n\
             took_seconds_count{group=\"n/a\"} 2\n"
        );
    }

    #[test]
    fn what_another_hub_shows_says_whose_it_is_already() {
        let (hub, n_a, peer) = (id("n/hub"), id("n/a"), id("m/hub"));
        let page = "# TYPE up gauge\nup 1\n";
        let theirs = rolled_up(&[MetricsPage::of(&peer, page, true), MetricsPage::of(&id("m/b"), page, false)]);
        assert_eq!(
            rolled_up(&[
                MetricsPage::of(&hub, page, true),
                MetricsPage::of(&n_a, page, false),
                MetricsPage::of(&peer, &theirs, true)
            ]),
            "# TYPE up gauge\nup{group=\"n/hub\"} 1\nup{group=\"n/a\"} 1\nup{group=\"m/hub\"} 1\nup{group=\"m/b\"} 1\n"
        );
    }

    proptest! {
        /// Whatever a group shows, the page for the node can be read, and no line of it is there twice.
        #[test]
        fn the_page_of_a_node_can_be_read(
            pages in proptest::collection::vec("(# TYPE [ab] (counter|summary)\n|[ab](_sum)?(\\{group=\"[xy]\"\\})? [0-9]\n|.{0,8}\n){0,12}", 1..4),
        ) {
            let ids: Vec<GroupId> = (0..pages.len()).map(|n| id(&format!("n/g{n}"))).collect();
            let page = |(id, page): (&GroupId, &String)| MetricsPage::of(id, page, id == &ids[0]);
            let page = rolled_up(&ids.iter().zip(&pages).map(page).collect::<Vec<_>>());
            prop_assert!(read(&page).is_ok(), "{page}");
            let families: Vec<&str> = page.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
            let mut once = families.clone();
            once.dedup();
            prop_assert_eq!(families, once);
        }
    }
}

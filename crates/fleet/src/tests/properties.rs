//! What holds for every fleet.

use proptest::prelude::*;
use tandem_types::{GroupId, NodeName, Role};

use crate::schema::{GroupKey, NodeKey, RoleKey};

use crate::{
    AgentEntry, AgentSpec, Card, Detectable, Document, Facts, Fleet, Group, MAINPC_PC2, Node, Ram, SOLO, Share, check,
    plan, render_findings, reserve_mib,
};

/// A fleet of one node: groups with random budgets that need only earlier ones.
fn fleet() -> impl Strategy<Value = Fleet> {
    let group = (1u64..900, 0u32..40, prop::collection::btree_set(0usize..8, 0..3));
    let node = (500u64..4_000, 512u64..30_000, 2u32..130);
    (node, prop::collection::vec(group, 1..8)).prop_map(|((ram, vram_mib, sm), groups)| {
        let mut fleet = Fleet::default();
        fleet.fleet.name = "random".into();
        let gpu = vec![Card { name: "card".into(), vram_mib, sm, sharing: vec![] }];
        fleet.node.insert("a".into(), Node { ram_mib: Detectable::Number(ram), gpu, ..Node::default() });
        for (i, (ram, share, needs)) in groups.iter().enumerate() {
            let needs: Vec<usize> = needs.iter().copied().filter(|n| *n < i).collect();
            let agent = AgentSpec {
                name: format!("A{i}"),
                needs: Some(needs.iter().map(|n| format!("A{n}")).collect()),
                ..AgentSpec::default()
            };
            let group = Group {
                agents: vec![AgentEntry::Stated(agent)],
                needs: needs.iter().map(|n| format!("g{n}")).collect(),
                ram_mib: Some(Ram::Mib(*ram)),
                gpu: (*share > 0).then(|| Share { share: *share, ..Share::default() }),
                ..Group::default()
            };
            fleet.group.insert(format!("a/g{i}"), group);
        }
        fleet
    })
}

/// Text that is nearly a fleet file: a good one with a piece cut out, repeated or put elsewhere.
fn nearly() -> impl Strategy<Value = String> {
    (prop::bool::ANY, 0.0..1.0f64, 0.0..1.0f64, 0usize..60, ".{0,8}").prop_map(|(solo, from, to, length, noise)| {
        let text = if solo { SOLO } else { MAINPC_PC2 };
        let at = |part: f64| text.floor_char_boundary((part * text.len() as f64) as usize);
        let (from, to) = (at(from), at(to));
        let end = text.floor_char_boundary((from + length).min(text.len())).max(from);
        let piece = &text[from..end];
        let rest = format!("{}{}", &text[..from], &text[end..]);
        let to = rest.floor_char_boundary(to.min(rest.len()));
        format!("{}{noise}{piece}{}", &rest[..to], &rest[to..])
    })
}

/// Words of the format in any order.
fn soup() -> impl Strategy<Value = String> {
    let words = prop::sample::select(vec![
        "[",
        "]",
        "[[",
        "]]",
        "{",
        "}",
        "=",
        ",",
        ".",
        "\n",
        "\"",
        "fleet",
        "node",
        "group",
        "a",
        "\"a/b\"",
        "agents",
        "needs",
        "ram_mib",
        "gpu",
        "share",
        "roles",
        "callers",
        "web",
        "listen",
        "1",
        "-7",
        "3.5",
        "\"x\"",
        "true",
        "1979-05-27",
        "#",
    ]);
    prop::collection::vec(words, 0..60).prop_map(|words| words.join(" "))
}

/// Texts that a pattern of the schema allows.
fn pattern(anchored: &str) -> impl Strategy<Value = String> + use<> {
    let bare = anchored.trim_start_matches('^').trim_end_matches('$');
    prop::string::string_regex(bare).unwrap()
}

fn survives(text: &str) -> Result<(), TestCaseError> {
    let found = check(&Document::read("fleet.toml", text), &Facts::default());
    prop_assert!(found.iter().all(|f| f.code != "unreadable"), "{found:?}");
    render_findings(&found, text, 40);
    // Findings outlive the text they were made from: the file may have changed when they are shown.
    render_findings(&found, "short", 0);
    Ok(())
}

proptest! {
    #[test]
    fn any_text_is_survived(text in any::<String>()) {
        survives(&text)?;
    }

    #[test]
    fn a_soup_of_words_is_survived(text in soup()) {
        survives(&text)?;
    }

    #[test]
    fn a_damaged_fleet_file_is_survived(text in nearly()) {
        survives(&text)?;
    }

    #[test]
    fn an_accepted_plan_exceeds_no_card_and_no_ram(fleet in fleet()) {
        let (ram, shares) = {
            let mib = |g: &Group| if let Some(Ram::Mib(mib)) = g.ram_mib { mib } else { 0 };
            let share = |g: &Group| g.gpu.as_ref().map_or(0, |s| s.share);
            (fleet.group.values().map(mib).sum::<u64>(), fleet.group.values().map(share).sum::<u32>())
        };
        match plan(&Document::from(fleet.clone()), &Facts::default()) {
            Ok(plan) => {
                let node = plan.nodes.values().next().unwrap();
                prop_assert!(node.groups.iter().filter_map(|g| g.ram_mib).sum::<u64>() <= node.ram_mib.unwrap());
                let card = &node.cards[0];
                let vram: u64 = card.shares.iter().map(|s| s.vram_mib).sum();
                prop_assert!(vram + reserve_mib(card.vram_mib) <= card.vram_mib);
                prop_assert!(card.shares.iter().map(|s| s.sm).sum::<u32>() <= card.sm);
            }
            Err(refused) => {
                let Detectable::Number(limit) = fleet.node["a"].ram_mib else { unreachable!() };
                let codes: Vec<&str> = refused.findings.iter().map(|f| f.code).collect();
                prop_assert_eq!(codes.contains(&"ram-over"), ram > limit);
                prop_assert_eq!(codes.contains(&"gpu-over"), shares > 100);
                prop_assert!(ram > limit || shares > 100 || codes.contains(&"share-empty"), "{codes:?}");
            }
        }
    }

    #[test]
    fn a_start_order_respects_needs_and_a_stop_order_reverses_it(mut fleet in fleet()) {
        fleet.node.get_mut("a").unwrap().ram_mib = Detectable::Number(100_000);
        fleet.group.values_mut().for_each(|g| g.gpu = None);
        let plan = plan(&Document::from(fleet), &Facts::default()).unwrap();
        let node = plan.nodes.values().next().unwrap();
        let mut started = Vec::new();
        for group in &node.groups {
            prop_assert!(group.needs.iter().chain(&group.waits_for).all(|n| started.contains(n)), "{}", group.id);
            started.push(group.id.group.clone());
        }
        let stopped: Vec<_> = node.stop_order().map(|g| g.id.group.clone()).collect();
        prop_assert!(stopped.iter().eq(started.iter().rev()));
    }

    #[test]
    fn a_planted_circle_is_found_and_printed(
        mut fleet in fleet(),
        members in prop::sample::subsequence((0usize..8).collect::<Vec<_>>(), 1..6).prop_shuffle(),
        agents in any::<bool>(),
    ) {
        let members: Vec<usize> = members.into_iter().filter(|m| *m < fleet.group.len()).collect();
        for (i, member) in members.iter().enumerate() {
            let next = members[(i + 1) % members.len()];
            let group = fleet.group.get_mut(&format!("a/g{member}")).unwrap();
            if let (true, AgentEntry::Stated(agent)) = (agents, &mut group.agents[0]) {
                agent.needs.get_or_insert_default().push(format!("A{next}"));
            } else {
                group.needs.push(format!("g{next}"));
            }
        }
        let (code, prefix) = if agents { ("agent-circle", "A") } else { ("group-circle", "g") };
        let found = check(&Document::from(fleet), &Facts::default());
        for member in members {
            let name = format!("{prefix}{member}");
            let named = found.iter().filter(|f| f.code == code).any(|f| {
                let (_, circle) = f.message.split_once(": ").unwrap();
                circle.split(" -> ").any(|m| m == name)
            });
            prop_assert!(named, "{name} in none of {found:?}");
        }
    }

    #[test]
    fn names_that_the_schema_allows_are_names(
        group in pattern(GroupKey::PATTERN),
        node in pattern(NodeKey::PATTERN),
        role in pattern(RoleKey::PATTERN),
    ) {
        prop_assert!(group.parse::<GroupId>().is_ok(), "{group}");
        prop_assert!(node.parse::<NodeName>().is_ok(), "{node}");
        prop_assert!(role.parse::<Role>().is_ok(), "{role}");
    }
}

//! Graphics cards, as another machine reports its own.

use tandem_agent::{FleetNode, FleetView};

use super::*;

const GIB: u64 = 1 << 30;

fn card(used: u64) -> pb::CardState {
    let uses = pb::CardUse { group: "pc2/reasoning_gpu".into(), bytes: 4 * GIB, ..Default::default() };
    pb::CardState {
        index: 0,
        name: "NVIDIA GeForce RTX 3060".into(),
        vram_total_bytes: 12 * GIB,
        vram_used_bytes: used,
        temperature_celsius: Some(61),
        sm_clock_mhz: Some(1_777),
        uses: vec![uses],
        ..Default::default()
    }
}

#[tokio::test]
async fn a_card_that_is_reported_is_listed_kept_and_weighed() {
    let node = |name: &str| FleetNode { name: name.parse().unwrap(), address: String::new() };
    let fleet = FleetView { nodes: vec![node("solo"), node("pc2")], ..Default::default() };
    let registry = registry_of("solo/peer_0/ServiceRegistry", State::Ready);
    let rig = Rig::new(&DEF).peer("ServiceRegistry", registry).fleet(fleet).start().await;
    let began = rig.clock.now();
    for used in [5 * GIB, 5 * GIB] {
        let report = pb::NodeState { node: "pc2".into(), cards: vec![card(used)], ..Default::default() };
        let report = pb::ReportNodeRequest { node: report.into(), ..Default::default() };
        rig.client().unary(twin::REPORT_NODE, report, &rig.call()).await.unwrap();
        rig.clock.advance(Duration::from_secs(5));
    }
    assert_eq!(state(&rig, "pc2").await.unwrap()[0].cards, [card(5 * GIB)]);

    // 12 GiB less 1 GiB for the display and contexts, of which 95 % may be taken.
    let room = (0.95 * (11 * GIB) as f64) as u64 - 5 * GIB;
    let weighed = async |card, bytes| {
        let kind = pb::Kind::KIND_VRAM.into();
        simulated(&rig, pb::SimulateLoadRequest { node: "pc2".into(), kind, card, bytes, ..Default::default() }).await
    };
    for (bytes, verdict) in [(room, pb::Verdict::VERDICT_ALLOW), (room + 1, pb::Verdict::VERDICT_DENY)] {
        for card in [None, Some(0)] {
            assert_eq!(weighed(card, bytes).await.unwrap().verdict, verdict, "{bytes} of {card:?}");
        }
    }
    let fault = weighed(Some(1), 1).await.unwrap_err();
    assert!(fault.code == Code::NotFound && fault.message.contains("no graphics card 1 is known on pc2"), "{fault}");

    let past = async |series: &str, card| {
        let from_us = began.micros();
        let ask =
            pb::GetHistoryRequest { series: series.into(), node: "pc2".into(), from_us, card, ..Default::default() };
        let points = rig.client().unary(twin::GET_HISTORY, ask, &rig.call()).await.map(|answer| answer.points);
        points.map(|points| points.into_iter().map(|point| point.value).collect::<Vec<f64>>())
    };
    assert_eq!(past("temperature_celsius", None).await.unwrap(), [61.0, 61.0]);
    assert_eq!(past("vram_used_bytes", Some(0)).await.unwrap(), [(5 * GIB) as f64; 2]);
    assert_eq!(past("vram_used_bytes", Some(1)).await.unwrap(), Vec::<f64>::new());
    let fault = past("cpu_ratio", Some(0)).await.unwrap_err();
    assert_eq!((fault.code, fault.violations[0].field.as_str()), (Code::InvalidArgument, "card"));
}

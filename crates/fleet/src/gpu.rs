//! The arithmetic of GPU shares.

use serde::Serialize;
use tandem_types::GroupId;

use crate::model::Sharing;

/// A card of a node and who has which share of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CardPlan {
    /// Its name.
    pub name: String,
    /// Its memory in MiB.
    pub vram_mib: u64,
    /// Its streaming multiprocessors.
    pub sm: u32,
    /// Whether it was seen on the machine; `None` when nobody has looked.
    pub present: Option<bool>,
    /// MiB kept for the display, contexts and fragmentation.
    pub reserve_mib: u64,
    /// Ways to divide it that it can do, best first.
    pub sharing: Vec<Sharing>,
    /// Who has which share.
    pub shares: Vec<SharePlan>,
}

/// A share of a card in numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct SharePlan {
    /// The group it belongs to.
    pub owner: GroupId,
    /// The group whose host runs it; another than the owner for an overflow share.
    pub run_by: GroupId,
    /// The card's place among those of the node.
    pub card: usize,
    /// Percentage of the card, after its reserve.
    pub percent: u32,
    /// Its memory in MiB.
    pub vram_mib: u64,
    /// Its streaming multiprocessors.
    pub sm: u32,
}

/// MiB of a card that no share gets: max(1,024 MiB, 8 % of the card, rounded up).
pub fn reserve_mib(vram_mib: u64) -> u64 {
    vram_mib.saturating_mul(8).div_ceil(100).max(1024).min(vram_mib)
}

/// The memory of a share: its percentage of the card less the reserve, in whole MiB.
pub fn share_vram_mib(vram_mib: u64, percent: u32) -> u64 {
    (vram_mib - reserve_mib(vram_mib)).saturating_mul(u64::from(percent)) / 100
}

/// The compute of a share: its percentage of the multiprocessors, rounded down to an even number.
pub fn share_sm(sm: u32, percent: u32) -> u32 {
    let exact = u64::from(sm) * u64::from(percent) / 100;
    u32::try_from(exact - exact % 2).unwrap_or(u32::MAX)
}

/// Whether a card can be divided by MIG, as far as its name tells: no GeForce can, nor other cards for desktops and the
/// smaller and older ones of data centres. A name that is not known to be one of these has the benefit of the doubt.
pub fn has_mig(name: &str) -> bool {
    const WITHOUT: [&str; 16] = [
        "geforce", "gtx", "quadro", "titan", "p4", "p40", "p100", "v100", "t4", "l4", "l40", "l40s", "a2", "a10",
        "a16", "a40",
    ];
    let name = name.to_lowercase();
    let words: Vec<&str> = name.split(|c: char| !c.is_ascii_alphanumeric()).collect();
    let workstation = words.contains(&"rtx") && !words.contains(&"pro");
    !workstation && !words.iter().any(|word| WITHOUT.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_of_the_two_cards_are_as_drawn_up() {
        for (vram, sm, percent, share_vram, share_of_sm) in [
            (24_564, 128, 40, 9_039, 50),
            (24_564, 128, 10, 2_259, 12),
            (24_564, 128, 20, 4_519, 24),
            (12_288, 28, 70, 7_884, 18),
            (12_288, 28, 30, 3_379, 8),
        ] {
            assert_eq!(share_vram_mib(vram, percent), share_vram, "{percent} % of {vram} MiB");
            assert_eq!(share_sm(sm, percent), share_of_sm, "{percent} % of {sm} SM");
        }
    }

    #[test]
    fn the_reserve_is_never_more_than_the_card() {
        for (vram, reserve) in [(0, 0), (512, 512), (12_288, 1_024), (24_564, 1_966), (81_920, 6_554)] {
            assert_eq!(reserve_mib(vram), reserve, "{vram} MiB");
        }
        assert_eq!(share_vram_mib(512, 100), 0);
    }

    #[test]
    fn mig_is_for_data_centre_cards() {
        for (name, mig) in [
            ("NVIDIA GeForce RTX 4090", false),
            ("RTX 3060", false),
            ("NVIDIA RTX 6000 Ada Generation", false),
            ("Tesla T4", false),
            ("NVIDIA H100 80GB HBM3", true),
            ("NVIDIA A100-SXM4-40GB", true),
            ("NVIDIA RTX PRO 6000 Blackwell Server Edition", true),
        ] {
            assert_eq!(has_mig(name), mig, "{name}");
        }
    }
}

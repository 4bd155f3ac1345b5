//! Graphics cards, as NVIDIA's management library (NVML) tells of them. The library comes with the driver and is loaded
//! where it is; a machine without it has no card that could be used.

use std::collections::BTreeMap;
#[cfg(test)]
use std::ffi::OsStr;

use nvml_wrapper::enum_wrappers::device::{Clock, TemperatureSensor};
use nvml_wrapper::enums::device::UsedGpuMemory;
use nvml_wrapper::error::NvmlError;
use nvml_wrapper::{Device, Nvml};
use tandem_fleet::Card;

/// A card at one moment, and what each of `By` uses of it; what its driver does not say is absent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CardSeen<By> {
    /// Its place in the driver's order.
    pub(crate) index: u32,
    /// Its name.
    pub(crate) name: String,
    /// Memory in all, bytes.
    pub(crate) total: u64,
    /// Of that, what nobody else can have: in use, or kept by the driver.
    pub(crate) used: u64,
    /// Clock of its multiprocessors, MHz.
    pub(crate) clock: Option<u32>,
    /// Its temperature, degrees Celsius.
    pub(crate) celsius: Option<u32>,
    /// Bytes in use.
    pub(crate) uses: BTreeMap<By, u64>,
}

impl<By> CardSeen<By> {
    /// The same card, its uses told of others.
    pub(crate) fn told_by<Of>(self, others: impl FnOnce(BTreeMap<By, u64>) -> BTreeMap<Of, u64>) -> CardSeen<Of> {
        let Self { index, name, total, used, clock, celsius, uses } = self;
        CardSeen { index, name, total, used, clock, celsius, uses: others(uses) }
    }
}

/// The driver.
#[derive(Debug)]
pub(crate) struct Driver(Option<Nvml>);

impl Driver {
    /// Loads its library, where there is one.
    pub(crate) fn open() -> Self {
        Self::opened(Nvml::init())
    }

    #[cfg(test)]
    pub(crate) fn at(library: &OsStr) -> Self {
        Self::opened(Nvml::builder().lib_path(library).init())
    }

    fn opened(nvml: Result<Nvml, NvmlError>) -> Self {
        Self(nvml.inspect_err(|error| tracing::debug!(%error, "no driver tells of graphics cards")).ok())
    }

    /// Looks at every card and the processes that use it. One that does not answer is left out.
    pub(crate) fn cards(&self) -> Vec<CardSeen<u32>> {
        self.each(|index, device| {
            let memory = device.memory_info()?;
            let mut uses = BTreeMap::new();
            let running = [device.running_compute_processes(), device.running_graphics_processes()];
            for process in running.into_iter().flatten().flatten() {
                if let UsedGpuMemory::Used(bytes) = process.used_gpu_memory {
                    // One that computes and draws is in both lists, with all it has.
                    uses.insert(process.pid, bytes);
                }
            }
            Ok(CardSeen {
                index,
                name: device.name()?,
                total: memory.total,
                used: memory.total.saturating_sub(memory.free),
                clock: device.clock_info(Clock::SM).ok(),
                celsius: device.temperature(TemperatureSensor::Gpu).ok(),
                uses,
            })
        })
    }

    /// The cards as a fleet file writes them; none without a driver.
    pub(crate) fn planned(&self) -> Option<Vec<Card>> {
        self.0.as_ref()?;
        Some(self.each(|_, device| {
            let capability = device.cuda_compute_capability()?;
            let sm = device.num_cores()? / cores_of_a_multiprocessor(capability.major, capability.minor);
            Ok(Card { name: device.name()?, vram_mib: device.memory_info()?.total >> 20, sm, sharing: Vec::new() })
        }))
    }

    fn each<T>(&self, look: impl Fn(u32, &Device<'_>) -> Result<T, NvmlError>) -> Vec<T> {
        let Some(nvml) = &self.0 else { return Vec::new() };
        let seen = |index| {
            let looked = nvml.device_by_index(index).and_then(|device| look(index, &device));
            looked.inspect_err(|error| tracing::warn!(index, %error, "a graphics card does not answer")).ok()
        };
        (0..nvml.device_count().unwrap_or(0)).filter_map(seen).collect()
    }
}

/// FP32 cores per multiprocessor by compute capability (CUDA C++ Programming Guide, "Arithmetic Instructions").
fn cores_of_a_multiprocessor(major: i32, minor: i32) -> u32 {
    match (major, minor) {
        (6 | 8, 0) | (7, _) => 64,
        _ => 128,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// What the library of a driver with two cards would say, compiled by the C compiler; process `pid` has 1 GiB of the
    /// first card. The second one has no clock, no temperature and no processes to tell.
    pub(crate) fn driver(folder: &std::path::Path, pid: u32) -> Driver {
        let (source, library) = (folder.join("nvml.c"), folder.join("libnvidia-ml.so.1"));
        std::fs::write(&source, include_str!("cards_fake.c")).unwrap();
        let mut compiler = std::process::Command::new("cc");
        let compiled = compiler.arg(format!("-DPID={pid}")).args(["-shared", "-fPIC", "-o"]).arg(&library).arg(&source);
        assert!(compiled.status().expect("a C compiler").success());
        Driver::at(library.as_os_str())
    }

    #[test]
    fn cards_are_told_as_the_driver_tells_them() {
        let folder = tempfile::tempdir().unwrap();
        let driver = driver(folder.path(), 41);
        let gib = 1 << 30;
        let first = CardSeen {
            index: 0,
            name: "NVIDIA GeForce RTX 4090".into(),
            total: 24 * gib,
            used: 5 * gib,
            clock: Some(2_520),
            celsius: Some(61),
            uses: [(41, gib), (42, gib / 2)].into(),
        };
        let second = CardSeen {
            index: 1,
            name: "NVIDIA GeForce RTX 3060".into(),
            total: 12 * gib,
            used: gib,
            clock: None,
            celsius: None,
            uses: [].into(),
        };
        assert_eq!(driver.cards(), [first, second]);
        let planned = driver.planned().unwrap();
        let brief: Vec<_> = planned.iter().map(|card| (card.name.as_str(), card.vram_mib, card.sm)).collect();
        assert_eq!(brief, [("NVIDIA GeForce RTX 4090", 24_576, 128), ("NVIDIA GeForce RTX 3060", 12_288, 28)]);
    }

    #[test]
    fn without_a_driver_there_is_no_card_and_nobody_has_looked() {
        let folder = tempfile::tempdir().unwrap();
        let driver = Driver::at(folder.path().join("none.so").as_os_str());
        assert_eq!((driver.cards(), driver.planned()), (vec![], None));
    }
}

//! Conversions between the shared words and their wire forms.

use tandem_types::{Health, State, Timestamp};

use crate::pb::tandem::common::v1 as pb;

impl From<State> for pb::State {
    fn from(state: State) -> Self {
        match state {
            State::Starting => Self::STATE_STARTING,
            State::Ready => Self::STATE_READY,
            State::Degraded => Self::STATE_DEGRADED,
            State::Unavailable => Self::STATE_UNAVAILABLE,
            State::Failed => Self::STATE_FAILED,
            State::Draining => Self::STATE_DRAINING,
            State::Stopped => Self::STATE_STOPPED,
            State::Unknown => Self::STATE_UNKNOWN,
        }
    }
}

/// The state a wire value stands for; one that is not said counts as unknown.
pub fn state_of(value: buffa::EnumValue<pb::State>) -> State {
    match value.as_known() {
        Some(pb::State::STATE_STARTING) => State::Starting,
        Some(pb::State::STATE_READY) => State::Ready,
        Some(pb::State::STATE_DEGRADED) => State::Degraded,
        Some(pb::State::STATE_UNAVAILABLE) => State::Unavailable,
        Some(pb::State::STATE_FAILED) => State::Failed,
        Some(pb::State::STATE_DRAINING) => State::Draining,
        Some(pb::State::STATE_STOPPED) => State::Stopped,
        _ => State::Unknown,
    }
}

impl From<&Health> for pb::Health {
    fn from(health: &Health) -> Self {
        Self {
            state: pb::State::from(health.state).into(),
            cause: health.cause.clone(),
            since_us: health.since.micros(),
            ..Default::default()
        }
    }
}

impl From<&pb::Health> for Health {
    fn from(health: &pb::Health) -> Self {
        Self { state: state_of(health.state), cause: health.cause.clone(), since: Timestamp(health.since_us) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_the_wire() {
        for state in State::ALL {
            let health = Health::new(state, "because", Timestamp::from_secs(7));
            assert_eq!(Health::from(&pb::Health::from(&health)), health);
        }
    }
}

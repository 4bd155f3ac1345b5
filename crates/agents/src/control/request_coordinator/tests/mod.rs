//! The queue against its promises, and turns through the contract.

mod coming_back;
mod fakes;
mod many;
mod queue;
mod together;
mod turns;

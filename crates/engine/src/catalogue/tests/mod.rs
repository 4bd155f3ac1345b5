//! The catalogue's files, and fetches from a hub and package clients made for the test.

mod files;
mod fixture;
mod from_hub;
mod from_packages;
mod stored;

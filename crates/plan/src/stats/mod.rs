//! The statistics that judges rest on: small samples, ties, devices that differ.
//!
//! Exact where groups are small, since that is where canaries are. Checked against reference values in
//! the tests of each file. Not here: what is compared with what, which the judges decide.

mod errors;
mod groups;
mod normal;
mod quantile;
mod trend;

pub use errors::{holm, spent};
pub use groups::{RankSum, fisher_greater, rank_sum_greater, smallest_p, upper_rate};
pub use normal::{normal_quantile, normal_upper};
pub use quantile::{median, quantile, shift};
pub use trend::{Kendall, Slope, kendall, seasonal_kendall, theil_sen};

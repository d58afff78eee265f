//! The model's own tests, named after the rows they show.

mod counts;

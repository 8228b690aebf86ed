//! What is stored, from outside.

mod golden;
mod mutated;
mod old_worker;

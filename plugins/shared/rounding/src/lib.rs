//! Rounds matrices to grouped-affine codes so that what a linear gives changes least.
//!
//! It knows arithmetic only: no model, no file, no format. Formats whose weights are `scale · (code − zero)` share it.

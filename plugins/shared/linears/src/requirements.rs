//! What has to be true of the host and the model before anything is planned.

use qhost_plugin_api::{
    documents::{HostFacts, Model},
    sdk::{COMPUTE, Failure, REPLAY, Result, STATISTICS, STATISTICS_2},
};

use crate::Calibration;

/// Refuses a host that does not run models, or does not compare them where that is asked for.
///
/// `who` needs it: the name of the method for people.
///
/// # Errors
/// Fails with kind `UNSUPPORTED`.
pub fn check_host(facts: &HostFacts, who: &str, calibration: &Calibration) -> Result<()> {
    if [STATISTICS, REPLAY, COMPUTE].iter().any(|service| !facts.has_service(service)) {
        return Err(Failure::unsupported(format!("this qhost does not run models, which {who} needs"))
            .hint("use a newer qhost"));
    }
    if calibration.corrects && !facts.has_service(STATISTICS_2) {
        return Err(Failure::unsupported("this qhost does not compare the model with its original")
            .about("--effort best")
            .hint("use a newer qhost, or --effort default"));
    }
    Ok(())
}

/// Refuses to quantise a head that is the embedding; `option` asked for it.
///
/// # Errors
/// Fails with kind `UNSUPPORTED`.
pub fn check_head(model: &Model, option: &str) -> Result<()> {
    if model.hyperparameters.tied_embeddings {
        return Err(Failure::unsupported("the head is the embedding, which is not quantised")
            .about(option)
            .hint("leave the option out"));
    }
    Ok(())
}

/// Refuses a model that is quantised already.
///
/// # Errors
/// Fails with kind `UNSUPPORTED`.
pub fn check_source(model: &Model) -> Result<()> {
    if let Some(method) = model.config["quantization_config"]["quant_method"].as_str() {
        return Err(Failure::unsupported(format!("the model is quantised already: {method}"))
            .hint("quantise the original model"));
    }
    Ok(())
}

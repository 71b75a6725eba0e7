//! Which experts a token is sent to, and with what weights: transformers' arithmetic, in `f32`.

use qhost_plugin_api::documents::Experts;

use super::decoder::Groups;

/// The tokens of one expert.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Assignment {
    /// Rows of the batch.
    pub rows: Vec<u32>,
    /// What the expert's answer is multiplied with, for each row.
    pub weights: Vec<f32>,
}

/// How tokens are sent to experts.
#[derive(Debug)]
pub struct Router<'a> {
    /// The model's experts.
    pub experts: &'a Experts,
    /// How groups are ranked, if they are.
    pub groups: Option<Groups>,
    /// Whether weights are scaled to sum up to 1.
    pub normalized: bool,
    /// What is added to scores for choosing alone.
    pub correction: Option<&'a [f32]>,
}

impl Router<'_> {
    /// Sends every row of `logits`, `[tokens, experts]`, to experts.
    #[must_use]
    pub fn assign(&self, logits: &[f32]) -> Vec<Assignment> {
        let count = self.experts.count as usize;
        let mut assignments = vec![Assignment::default(); count];
        for (row, logits) in (0..).zip(logits.chunks_exact(count.max(1))) {
            for (expert, weight) in self.chosen(logits) {
                assignments[expert].rows.push(row);
                assignments[expert].weights.push(weight);
            }
        }
        assignments
    }

    /// The chosen experts of a token with their weights.
    fn chosen(&self, logits: &[f32]) -> Vec<(usize, f32)> {
        let scores = match &*self.experts.scoring {
            "sigmoid" => logits.iter().map(|logit| 1.0 / (1.0 + (-logit).exp())).collect(),
            _ => softmax(logits),
        };
        let mut ranks: Vec<f32> = match self.correction {
            Some(correction) => scores.iter().zip(correction).map(|(score, more)| score + more).collect(),
            None => scores.clone(),
        };
        if let (Some(by), Some(groups), Some(used)) = (self.groups, self.experts.groups, self.experts.groups_used) {
            let size = (ranks.len() / groups as usize).max(1);
            let worth: Vec<f32> = ranks.chunks(size).map(|group| worth(group, by)).collect();
            let taken = best(&worth, used as usize);
            for (group, ranks) in ranks.chunks_mut(size).enumerate().filter(|(group, _)| !taken.contains(group)) {
                debug_assert!(group < worth.len());
                ranks.fill(if by == Groups::Best { 0.0 } else { f32::NEG_INFINITY });
            }
        }
        let chosen = best(&ranks, self.experts.used as usize);
        // What the groups leave out has no score either, where it is chosen because there is nothing else.
        let scores = if self.groups == Some(Groups::Best) { ranks } else { scores };
        let sum: f32 = chosen.iter().map(|&expert| scores[expert]).sum();
        #[expect(clippy::cast_possible_truncation, reason = "arithmetic is in f32")]
        let scale = self.experts.scale as f32;
        let by = if self.normalized { sum + 1e-20 } else { 1.0 };
        chosen.into_iter().map(|expert| (expert, scores[expert] / by * scale)).collect()
    }
}

fn worth(group: &[f32], by: Groups) -> f32 {
    let taken = best(group, if by == Groups::Best { 1 } else { 2 });
    taken.into_iter().map(|expert| group[expert]).sum()
}

/// The indices of the greatest numbers, the greatest first, and of equal ones the first.
fn best(numbers: &[f32], count: usize) -> Vec<usize> {
    let mut order: Vec<usize> = (0..numbers.len()).collect();
    order.sort_by(|&one, &other| numbers[other].total_cmp(&numbers[one]));
    order.truncate(count);
    order
}

fn softmax(logits: &[f32]) -> Vec<f32> {
    let most = logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let powers: Vec<f32> = logits.iter().map(|logit| (logit - most).exp()).collect();
    let sum: f32 = powers.iter().sum();
    powers.into_iter().map(|power| power / sum).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn experts() -> Experts {
        let groups = Some(2);
        let groups_used = Some(1);
        Experts { count: 4, used: 2, scale: 1.0, scoring: "softmax".into(), groups, groups_used, ..Experts::default() }
    }

    #[test]
    fn weights_are_those_of_the_best_and_sum_up_to_one_where_asked() {
        let experts = experts();
        let logits = [0.0, 3.0_f32.ln(), 2.0_f32.ln(), 2.0_f32.ln()];
        let plain = Router { experts: &experts, groups: None, normalized: false, correction: None };
        let chosen: Vec<_> = plain.chosen(&logits).into_iter().map(|(expert, w)| (expert, (w * 8.0).round())).collect();
        assert_eq!(chosen, [(1, 3.0), (2, 2.0)]);
        let sum: f32 = Router { normalized: true, ..plain }.chosen(&logits).iter().map(|(_, weight)| weight).sum();
        assert!((sum - 1.0).abs() < 1e-6);
    }

    #[test]
    fn groups_are_chosen_first() {
        let experts = experts();
        // The best expert is in the first group, the best two together in the second.
        let logits = [0.0, 3.0, 2.9, 2.9];
        let router = |groups| Router { experts: &experts, groups: Some(groups), normalized: false, correction: None };
        let of = |router: Router<'_>| router.chosen(&logits).into_iter().map(|(expert, _)| expert).collect::<Vec<_>>();
        assert_eq!(of(router(Groups::Best)), [1, 0]);
        assert_eq!(of(router(Groups::BestTwo)), [2, 3]);
    }

    #[test]
    fn a_correction_chooses_and_does_not_weigh() {
        let experts = Experts { scoring: "sigmoid".into(), used: 1, ..experts() };
        let router =
            Router { experts: &experts, groups: None, normalized: false, correction: Some(&[9.0, 0.0, 0.0, 0.0]) };
        let assignments = router.assign(&[0.0, 5.0, 5.0, 5.0]);
        assert_eq!(assignments[0], Assignment { rows: vec![0], weights: vec![0.5] });
    }
}

//! The policies of names: see [`TaskRegistryBuilder::policy`](crate::TaskRegistryBuilder::policy).

use std::sync::Arc;

use rustc_hash::FxHashMap;

use crate::{
    limits::check_name,
    model::{BuildError, NamePolicy, TaskName},
    task::work::Meta,
};

pub(crate) struct NamePolicies(FxHashMap<TaskName, Arc<NamePolicy>>);

impl NamePolicies {
    /// # Errors
    /// If a time is zero, or a name has two policies.
    pub(crate) fn new(policies: Vec<(TaskName, NamePolicy)>) -> Result<Self, BuildError> {
        let mut by_name = FxHashMap::default();
        for (name, policy) in policies {
            check_name("policy", name)?;
            policy.check(name)?;
            if by_name.insert(name, Arc::new(policy)).is_some() {
                return Err(BuildError::TwoLimitsOfName { setting: "policy", name });
            }
        }
        Ok(Self(by_name))
    }

    /// Gives a task the policy of its name, if there is one.
    #[inline]
    pub(crate) fn apply(&self, meta: &mut Meta) {
        if !self.0.is_empty() {
            self.apply_some(meta);
        }
    }

    #[inline(never)]
    fn apply_some(&self, meta: &mut Meta) {
        if let Some(policy) = self.0.get(&meta.name) {
            meta.policy.get_or_insert_default().of_name = Some(Arc::clone(policy));
        }
    }
}

"""Tables of all parts of a VAE, one row for each variant. The contract tests run over these tables."""

from kvae import likelihoods, networks, objectives, posteriors, priors, schedules

#: posteriors q(z|x), by name
POSTERIORS = {
    "DiagonalNormal": lambda: posteriors.DiagonalNormal(),
    "FullCovarianceNormal": lambda: posteriors.FullCovarianceNormal(),
    "InverseAutoregressive": lambda: posteriors.InverseAutoregressive(num_steps=2, units=16),
    "TopDownNormal": lambda: posteriors.TopDownNormal(),
}


def networks_for(posterior, image_shape=(8, 8, 1), levels=((4, 1, 2, 4), (2, 1, 1, 4))):
    """Return a small encoder and decoder for a posterior: dense networks of 3 latents, or those of a hierarchy."""
    if isinstance(posterior, posteriors.TopDownNormal):
        return networks.BottomUp(image_shape, levels), networks.TopDown(image_shape, levels)
    return networks.Encoder(3, networks.MLP((16,))), networks.Decoder(image_shape, networks.MLP((16,)))


#: likelihoods p(x|z), by name
LIKELIHOODS = {
    "Bernoulli": lambda: likelihoods.Bernoulli(),
    "ContinuousBernoulli": lambda: likelihoods.ContinuousBernoulli(),
    "Normal": lambda: likelihoods.Normal(scale=0.3),
    "Normal learned": lambda: likelihoods.Normal(scale=0.3, learned=True),
    "Normal learned per pixel": lambda: likelihoods.Normal(scale=0.3, learned=True, per_pixel=True),
    "OptimalNormal": lambda: likelihoods.OptimalNormal(scale=0.3),
    "DiagonalNormal": lambda: likelihoods.DiagonalNormal(),
    "LowRankNormal": lambda: likelihoods.LowRankNormal(rank=3),
    "Laplace": lambda: likelihoods.Laplace(scale=0.3),
    "Laplace learned": lambda: likelihoods.Laplace(scale=0.3, learned=True),
    "DiagonalLaplace": lambda: likelihoods.DiagonalLaplace(),
    "Scaled": lambda: likelihoods.Scaled(likelihoods.Normal(scale=0.3), location=[0.5], scale=[2.0]),
    "DiscretizedLogistic": lambda: likelihoods.DiscretizedLogistic(levels=32),
    "DiscretizedLogisticMixture": lambda: likelihoods.DiscretizedLogisticMixture(components=3, levels=4),
}

#: priors p(z), by name
PRIORS = {
    "StandardNormal": lambda: priors.StandardNormal(),
    "ConditionalNormal": lambda: priors.ConditionalNormal(),  # only for conditional models
    "Mixture": lambda: priors.Mixture(components=3),
    "RealNVP": lambda: priors.RealNVP(num_layers=4, units=(16,)),
    "FixedMixture": lambda: priors.FixedMixture(components=3),
    "FixedMixture full": lambda: priors.FixedMixture(components=3, full=True),
    "FlowMatching": lambda: priors.FlowMatching(units=(8,), steps=3, iterations=24),
    "TopLevel": lambda: priors.TopLevel(priors.FixedMixture(components=3), size=1),
    "VampPrior": lambda: priors.VampPrior(pseudo_inputs=4),  # not for every posterior
}

#: objectives, by name
OBJECTIVES = {
    "ELBO": lambda: objectives.ELBO(),
    "ELBO with warm-up": lambda: objectives.ELBO(schedules.LinearWarmup(steps=10), num_samples=2),
    "FreeBits": lambda: objectives.FreeBits(0.1),
    "Capacity": lambda: objectives.Capacity(schedules.LinearWarmup(steps=10, end=5.0), gamma=10.0),
    "TargetRate": lambda: objectives.TargetRate(rate=5.0),
    "IWAE": lambda: objectives.IWAE(num_samples=4),
    "DReG": lambda: objectives.DReG(num_samples=4),
    "MIWAE": lambda: objectives.MIWAE(num_samples=6, num_groups=2),
    "PIWAE": lambda: objectives.PIWAE(num_samples=6, num_groups=3),
    "CIWAE": lambda: objectives.CIWAE(num_samples=4, beta=0.5),
    "TotalCorrelation": lambda: objectives.TotalCorrelation(beta=4.0, dataset_size=256),
    "TotalCorrelation stratified": lambda: objectives.TotalCorrelation(
        beta=4.0, dataset_size=256, alpha=0.5, gamma=2.0, stratified=True, num_samples=2
    ),
    "MMD WAE": lambda: objectives.MMD(weight=10.0),
    "MMD InfoVAE": lambda: objectives.MMD(weight=10.0, beta=0.5, kernel=objectives.RBF(2.0), num_samples=2),
    "DIP-I": lambda: objectives.DIP(5.0, 50.0, means_only=True),
    "DIP-II": lambda: objectives.DIP(),
}

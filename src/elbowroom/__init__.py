"""Where a variational autoencoder's ELBO loses nats against log p(x).

    import elbowroom as er

    model = er.DecoderModel(decoder, likelihood="bernoulli", latent_shape=50)
    q = er.Amortized(encoder, er.DiagonalGaussian(50))
    gaps = er.decompose(model, q, x)
    print(gaps, gaps.verdict(), sep="\\n\\n")

Measure
    decompose       the ladder of each datum, from L[q] through the best local posteriors up to log p(x)
    elbo, iwae, ais     bounds of log p(x), alone
    sandwich, Sandwich      log p(x) from both sides, on data simulated from the model
    fit_local       the best posterior of a family for each datum
    refine          a few steps from the encoder's answer towards it
    check           what is wrong with a model, before it is measured
    estimate_cost, Forecast     how long decompose will take, and how precise it will be
    Plan, EvidencePlan, AnnealingSchedule, Budget       what a measurement may spend

Read the result
    Gaps            what decompose returns: printed, a table; saved by gaps.save(folder), read by load_gaps(folder)
    judge, Verdict, Finding     the ladder in words
    compare, Comparison     two runs, datum by datum where they share data
    Estimate        a value for each datum, with its side, standard error and Monte Carlo error
    Flag            why a datum's numbers cannot be trusted
    Fit, FitReport, Outcome     local fits, and how they ended

Models p(z) p(x|z)
    DecoderModel    a decoder with a likelihood and a prior
    FunctionModel   log densities given as functions
    LinearGaussian  probabilistic PCA, whose every number is known in closed form
    likelihoods     distributions of x given the decoder's output
    LatentModel     what is asked of any model
    plain           model and posterior of a VAE that is one module
    pythae, scvi, pyro      models of these packages; adapters is where others add theirs

Posteriors q(z|x)
    Amortized       parameters from an encoder
    Local           parameters for each datum
    DiagonalGaussian, FullGaussian, CouplingFlow, AuxiliaryFlow     families
    Family, Posterior, Distribution     what is asked of a family, a posterior, and of q(z|x) of given data
    posteriors      flows of the package zuko, and other builders

Train
    training, Settings      VAEs of the paper, trained with checkpoints
    repair          a new encoder on a frozen decoder, and what it recovers
    datasets        MNIST, Fashion-MNIST, CIFAR-10, and files of arrays

CheckError and RunError are raised for a model that cannot be measured, and for a folder that holds no whole run.
Every name has its own help, as in help(er.decompose). Nothing is loaded before it is used.
"""

import lazy_loader as _lazy_loader

__version__ = "0.1.0"
# No __all__: with one, help() of the package prints the help of every name in it, thousands of lines.
__getattr__, __dir__, _names = _lazy_loader.attach_stub(__name__, __file__)

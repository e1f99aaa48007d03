from .evidence import ais as ais
from .evidence import elbo as elbo
from .evidence import iwae as iwae
from .fits import Fit as Fit
from .fits import fit_local as fit_local
from .fits import refine as refine
from .measure import Plan as Plan
from .measure import Sandwich as Sandwich
from .measure import check as check
from .measure import decompose as decompose
from .measure import sandwich as sandwich
from .models import DecoderModel as DecoderModel
from .models import FunctionModel as FunctionModel
from .models import LinearGaussian as LinearGaussian
from .models import likelihoods as likelihoods
from .posteriors import Amortized as Amortized
from .posteriors import AuxiliaryFlow as AuxiliaryFlow
from .posteriors import CouplingFlow as CouplingFlow
from .posteriors import DiagonalGaussian as DiagonalGaussian
from .posteriors import FullGaussian as FullGaussian
from .posteriors import Local as Local
from .results import Estimate as Estimate
from .results import Gaps as Gaps
from .results import compare as compare
from .results import load_gaps as load_gaps

__version__: str

from .cluster import Cluster as Cluster
from .connection import LOCAL as LOCAL
from .connection import WorkersError as WorkersError
from .connection import prepare_cluster as prepare_cluster
from .imports import quick_imports as quick_imports
from .workers import Crew as Crew
from .workers import Left as Left
from .workers import Report as Report

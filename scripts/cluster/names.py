"""Names that manifests, the programs in pods and the workstation must agree on."""

RUN = "tunefleet.io/run"  # label: name of the run, on its job, its pods and all that belongs to it
OVERLAY = "tunefleet.io/overlay"  # label: use case of the run
ROLE = "tunefleet.io/role"  # label of a pod: trainer, launcher, data-access, fetch, serve or serve-s3
IDENTITY = "tunefleet.io/identity"  # annotation of a job: hash of recipe and placement
STARTED_BY = "tunefleet.io/command"  # annotation of a job: the make line that started it

NAMESPACE = "finetune"
STORE = "/store"  # where pods see the shared store: models/, datasets/, runs/
RECIPE = "/etc/finetune/train.yaml"
DATA_ACCESS = "data-access"  # Deployment and container with the store mounted, for the workstation's questions
EVENT = "tunefleet: "  # what a line begins with that machines read; a JSON object follows

# runtime: kind of the job, its API version, plural and group as the API server's paths have them
RUNTIMES = {
    "job": ("Job", "batch/v1", "jobs", "apis/batch/v1"),
    "pytorchjob": ("PyTorchJob", "kubeflow.org/v1", "pytorchjobs", "apis/kubeflow.org/v1"),
    "mpijob": ("MPIJob", "kubeflow.org/v2beta1", "mpijobs", "apis/kubeflow.org/v2beta1"),
    "trainjob": ("TrainJob", "trainer.kubeflow.org/v1alpha1", "trainjobs", "apis/trainer.kubeflow.org/v1alpha1"),
}

# Environment modules: start from none, so that what the login shell had loaded does not leak in.
# Name the modules as further preamble lines in the cluster's yaml: `module load cuda/12.4`.
[ -f /etc/profile.d/modules.sh ] && . /etc/profile.d/modules.sh
[ -f /etc/profile.d/lmod.sh ] && . /etc/profile.d/lmod.sh
module purge

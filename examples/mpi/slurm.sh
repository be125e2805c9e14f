#!/bin/bash
# Eight ranks on Slurm; adapt memory and modules to your site.
# `hpclaunch script slurm --mpi 8 --memory "2 GB" array_sum.py` writes such a file for you.
#SBATCH --job-name=array
#SBATCH --output=array.%j.log
#SBATCH --time=00:15:00
#SBATCH --ntasks=8
#SBATCH --mem-per-cpu=500M

module load openmpi
export OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

srun python array_sum.py

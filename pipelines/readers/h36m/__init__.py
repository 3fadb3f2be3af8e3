"""Human3.6M: poses, cameras and videos."""

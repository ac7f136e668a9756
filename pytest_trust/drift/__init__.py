"""How far two distributions over tokens are apart."""
